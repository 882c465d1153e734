"""`fit`: from a frozen classifier and pictures to a guard folder, stage by stage.

Craft a bank of real perturbations, extend it by synthetic ones, train the rectifier, fit the
detector, report on the test pictures. Every stage leaves its file, written whole, before the next
begins; a fit that was interrupted goes on where it stopped and ends with the same weights. Where
several processes were started, they train the rectifier together.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch

from prn_guard import console
from prn_guard.errors import TargetError
from prn_guard.nn.detector import Detector
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec
from prn_guard.nn.target import state_digest
from training.attacks.fooling import fooling_rate, predict
from training.attacks.subject import for_attacks
from training.datasets import Pictures, on_device
from training.guard import folder as layout
from training.guard.crafting import craft, extend, load_synthetic, training_perturbations
from training.guard.fit_detector import DetectorFit, calibrate, conformal_rank, fit_detector
from training.guard.folder import GuardRecord, save_module
from training.guard.recipe import Recipe
from training.guard.rectifier_stage import Trained, train
from training.guard.request import FitRequest
from training.guard.splits import Splits, split_pictures
from training.perturbations.bank import Bank
from training.processes import Processes, processes
from training.setting import versions

Stage = TypeVar("Stage")


def fit(request: FitRequest, out: Path, *, restart: bool = False) -> GuardRecord:
    """Fit a guard and write it to the folder `out`.

    Args:
        request: target, pictures, ball and options.
        out: the guard folder; an interrupted fit of the same request goes on there.
        restart: throw away what an earlier fit left there.

    Raises:
        InvalidArgumentError: `out` holds another fit.
        DataError: too few pictures, or a target that no perturbation fools.
        TargetError: the target changed under the fit.
    """
    with processes(torch.device(request.options.device)) as together:
        together.check_batch(request.recipe().batch_size)
        together.lead(lambda: request.claim(out, restart=restart))
        if not together.leader_says((out / layout.RECORD).exists()):
            _fit(request, out, together)
        elif together.leads:
            console.say(f"{out} holds this very guard already; nothing to do.")
        return layout.read_record(out)


@final
@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """What the stages of a fit gave."""

    bank: Bank
    synthetic: dict[str, Any]
    rectifier: RectifierSpec
    recipe: Recipe
    rounds: list[dict[str, Any]]
    detector: Detector
    detection: DetectorFit
    test_fooling_rates: list[float]
    test: dict[str, float]
    seconds: dict[str, float]


@final
class _Clock:
    """Runs stages and keeps the seconds that each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, stage: Callable[[], Stage]) -> Stage:
        begin = time.monotonic()
        result = stage()
        self.seconds[name] = round(time.monotonic() - begin, 2)
        return result


def _fit(request: FitRequest, out: Path, together: Processes) -> None:
    """Fit and record; all processes train the rectifier, the leader alone does all the rest."""
    options, device = request.options, torch.device(request.options.device)
    digest = state_digest(request.loaded.target)
    for_attacks(request.loaded.target, device)
    splits = split_pictures(on_device(request.training.pictures, device), seed=options.seed)
    # Asked here, because it is the last stage that would find too few.
    conformal_rank(len(splits.calibration), options.false_positive_rate)
    clock = _Clock()
    together.lead(lambda: _perturbations(request, splits, out, clock))
    trained = clock("rectifier", lambda: train(request, splits, out, together))
    together.lead(lambda: _complete(request, splits, trained, out, clock, digest))


def _complete(
    request: FitRequest, splits: Splits, trained: Trained, out: Path, clock: _Clock, digest: str
) -> None:
    """The stages after the rectifier's, and the record."""
    target = request.loaded.target
    bank, (_, synthetic_facts) = Bank.load(out / layout.BANK), load_synthetic(out)
    detector, detection = clock("detector", lambda: _detector(request, trained, splits, out))
    guarded = GuardedClassifier(target, trained.rectifier, detector)
    test = on_device(request.test.pictures, splits.detector.device)
    fooled, figures = clock("test", lambda: _test_figures(guarded, bank, test))
    # Last of all: where every stage was done by an interrupted fit, only the test runs the target.
    if state_digest(target) != digest:
        raise TargetError(
            "The target's weights or buffers changed while the guard was fitted; a module that "
            "updates its state in evaluation mode cannot be guarded. Nothing was recorded."
        )
    fitted = _Fitted(
        bank=bank,
        synthetic=synthetic_facts,
        rectifier=request.rectifier(),
        recipe=request.recipe(),
        rounds=trained.attempts,
        detector=detector,
        detection=detection,
        test_fooling_rates=fooled,
        test=figures,
        seconds=clock.seconds,
    )
    record = _record(request, fitted, out, target_digest=request.loaded.digest())
    layout.write_record(out, record)
    shutil.rmtree(out / layout.STATE, ignore_errors=True)


def _record(request: FitRequest, fitted: _Fitted, out: Path, *, target_digest: str) -> GuardRecord:
    options, detection = request.options, fitted.detection
    return GuardRecord(
        target=request.loaded.spec,
        target_digest=target_digest,
        files=layout.digests(out),
        input=request.loaded.target.spec,
        class_names=request.training.pictures.class_names,
        images=request.training.spec,
        resize=options.resize,
        limit=options.limit,
        data_folder=options.data_folder,
        norm=request.norm,
        epsilon=request.epsilon,
        seed=options.seed,
        bank={**fitted.bank.summary(), "test_fooling_rates": fitted.test_fooling_rates},
        synthetic=fitted.synthetic,
        rectifier=fitted.rectifier,
        recipe=asdict(fitted.recipe),
        rounds=fitted.rounds,
        detector=fitted.detector.spec,
        threshold=detection.threshold,
        false_positive_rate=detection.false_positive_rate,
        calibration_pictures=detection.calibration_pictures,
        detection={"roc_area": detection.roc_area, **detection.detection_rates},
        test_pictures=request.test.spec,
        test=fitted.test,
        versions=versions(),
        seconds=fitted.seconds,
    )


def _perturbations(request: FitRequest, splits: Splits, out: Path, clock: _Clock) -> None:
    """The stages before the rectifier's: their files, unless an interrupted fit wrote them."""
    layout.save_target(request.loaded, out)
    clock("bank", lambda: craft(request, splits, out))
    clock("synthetic", lambda: extend(request, out))


def _detector(
    request: FitRequest, trained: Trained, splits: Splits, out: Path
) -> tuple[Detector, DetectorFit]:
    """The detector that was trained with the rectifier, calibrated; or one fitted to it."""
    options, perturbations = request.options, training_perturbations(out)
    if trained.joint is not None and options.detector in {None, "joint"}:
        console.say("Calibrating the detector")
        detector = trained.joint.detector()
        found = calibrate(
            trained.rectifier,
            detector,
            splits.calibration,
            perturbations,
            false_positive_rate=options.false_positive_rate,
        )
    else:
        console.say("Fitting the detector")
        detector, found = fit_detector(
            trained.rectifier,
            splits.detector,
            splits.calibration,
            torch.cat([perturbations, trained.found]),
            seed=options.seed,
            false_positive_rate=options.false_positive_rate,
            spec=request.fitted_detector(),
        )
    save_module(out / layout.DETECTOR, detector)
    return detector, found


def _test_figures(
    guarded: GuardedClassifier, bank: Bank, test: Pictures
) -> tuple[list[float], dict[str, float]]:
    """Fooling rate of every bank member, and clean accuracy bare and guarded, on test pictures."""
    clean = predict(guarded.target, test)
    fooled = [
        fooling_rate(clean, predict(guarded.target, test, member)) for member in bank.perturbations
    ]
    with torch.no_grad():
        through_guard = predict(lambda images: guarded(images).logits, test)
    return fooled, {
        "pictures": float(len(test)),
        "clean_accuracy": float((clean == test.labels).double().mean()),
        "guarded_clean_accuracy": float((through_guard == test.labels).double().mean()),
        "least_fooling_rate": min(fooled),
    }
