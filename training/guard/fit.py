"""`fit`: from a frozen classifier and pictures to a guard folder, stage by stage.

Craft a bank of real perturbations, extend it by synthetic ones, train the rectifier, fit the
detector, report on the test pictures. Every stage leaves its file, written whole, before the next
begins; a fit that was interrupted goes on where it stopped and ends with the same weights.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from prn_guard import console
from prn_guard.errors import TargetError
from prn_guard.nn.detector import Detector, detector_spec
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier, default_spec
from prn_guard.nn.target import state_digest
from training.attacks.fooling import fooling_rate, predict
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures, held_in_memory
from training.guard import folder as layout
from training.guard.fit_detector import DetectorFit, conformal_rank, fit_detector
from training.guard.fit_rectifier import Recipe, default_recipe, fit_rectifier
from training.guard.folder import GuardRecord, load_module, save_module
from training.guard.request import FitRequest
from training.guard.splits import Splits, split_pictures
from training.perturbations.bank import Bank, BankCriteria
from training.perturbations.search import craft_bank
from training.perturbations.synthetic import synthesise
from training.progress import tracked
from training.randomness import generator_for
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
    request.claim(out, restart=restart)
    if (out / layout.RECORD).exists():
        console.say(f"{out} holds this very guard already; nothing to do.")
        return layout.read_record(out)
    digest = state_digest(request.loaded.target)
    fitted = _stages(request, out)
    # Last of all: where every stage was done by an interrupted fit, only the test runs the target.
    if state_digest(request.loaded.target) != digest:
        raise TargetError(
            "The target's weights or buffers changed while the guard was fitted; a module that "
            "updates its state in evaluation mode cannot be guarded. Nothing was recorded."
        )
    record = _record(request, fitted, out, target_digest=request.loaded.digest())
    layout.write_record(out, record)
    shutil.rmtree(out / layout.STATE, ignore_errors=True)
    return record


@final
@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """What the stages of a fit gave."""

    bank: Bank
    synthetic: dict[str, Any]
    rectifier: RectifierSpec
    recipe: Recipe
    detector: Detector
    detection: DetectorFit
    test_fooling_rates: list[float]
    test: dict[str, float]
    seconds: dict[str, float]


def _stages(request: FitRequest, out: Path) -> _Fitted:
    target, options = request.loaded.target, request.options
    layout.save_target(request.loaded, out)
    splits = split_pictures(request.training.pictures, seed=options.seed)
    # Asked here, because it is the last stage that would find too few.
    conformal_rank(len(splits.calibration), options.false_positive_rate)
    spec = rectifier_spec(request)
    recipe = default_recipe(spec, epochs=options.epochs)
    clock = _Clock()
    bank = clock("bank", lambda: _bank(request, splits, out))
    synthetic, synthetic_facts = clock("synthetic", lambda: _synthetic(request, bank, out))
    perturbations = torch.cat([bank.training, synthetic])
    rectifier = clock(
        "rectifier", lambda: _rectifier(request, spec, recipe, splits, perturbations, out)
    )
    detector, detection = clock(
        "detector", lambda: _detector(request, rectifier, splits, perturbations, out)
    )
    guarded = GuardedClassifier(target, rectifier, detector)
    fooled, figures = clock("test", lambda: _test_figures(guarded, bank, request.test.pictures))
    return _Fitted(
        bank=bank,
        synthetic=synthetic_facts,
        rectifier=spec,
        recipe=recipe,
        detector=detector,
        detection=detection,
        test_fooling_rates=fooled,
        test=figures,
        seconds=clock.seconds,
    )


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


def rectifier_spec(request: FitRequest) -> RectifierSpec:
    """The rectifier that a request asks for, at the size of its target's input."""
    spec = request.loaded.target.spec
    if request.options.architecture == "paper":
        return RectifierSpec(architecture="paper", channels=spec.channels)
    return default_spec(spec.channels, spec.height, spec.width)


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


def _bank(request: FitRequest, splits: Splits, out: Path) -> Bank:
    path = out / layout.BANK
    if path.exists():
        return Bank.load(path)
    options = request.options
    criteria = BankCriteria(members=options.members, held_out=options.held_out)
    with tracked("Crafting perturbations") as track:
        bank = craft_bank(
            request.loaded.target,
            splits.rectifier,
            held_in_memory(splits.judging),
            norm=request.norm,
            epsilon=request.epsilon,
            seed=options.seed,
            criteria=criteria,
            resume=out / layout.STATE / "bank.safetensors",
            on_round=lambda so_far: track(
                len(so_far.perturbations),
                criteria.members,
                f"{so_far.candidates} tried of at most {criteria.most_candidates}",
            ),
        )
    bank.save(path)
    return bank


def _synthetic(request: FitRequest, bank: Bank, out: Path) -> tuple[Tensor, dict[str, Any]]:
    path = out / layout.SYNTHETIC
    if not path.exists():
        made = synthesise(
            bank.training,
            request.options.synthetic,
            norm=bank.norm,
            epsilon=bank.epsilon,
            generator=generator_for(request.options.seed, "synthetic"),
        )
        facts = {
            "form": made.form,
            "count": len(made.perturbations),
            "tried": made.tried,
            "accepted": made.accepted,
            "algorithm_1_acceptance": made.walk_acceptance,
        }
        save_tensors(path, {"perturbations": made.perturbations}, {"facts": facts})
    tensors, metadata = load_tensors(path)
    return tensors["perturbations"], metadata["facts"]


def _rectifier(
    request: FitRequest,
    spec: RectifierSpec,
    recipe: Recipe,
    splits: Splits,
    perturbations: Tensor,
    out: Path,
) -> nn.Module:
    path = out / layout.RECTIFIER
    rectifier = build_rectifier(spec, generator=generator_for(request.options.seed, "weights"))
    if path.exists():
        load_module(path, rectifier)
        return rectifier.eval()
    with tracked("Training the rectifier") as track:
        fit_rectifier(
            rectifier,
            request.loaded.target,
            splits.rectifier,
            perturbations,
            recipe=recipe,
            seed=request.options.seed,
            checkpoint=out / layout.STATE / "rectifier.safetensors",
            on_iteration=lambda done, total, loss: track(done, total, f"loss {loss:.3f}"),
        )
    save_module(path, rectifier)
    return rectifier


def _detector(
    request: FitRequest, rectifier: nn.Module, splits: Splits, perturbations: Tensor, out: Path
) -> tuple[Detector, DetectorFit]:
    console.say("Fitting the detector")
    options = request.options
    _, height, width = splits.detector.shape
    detector, found = fit_detector(
        rectifier,
        splits.detector,
        splits.calibration,
        perturbations,
        seed=options.seed,
        false_positive_rate=options.false_positive_rate,
        spec=detector_spec(
            height, width, kernel=options.detector, features=options.detector_features
        ),
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
