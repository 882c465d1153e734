"""`fit` from beginning to end: what it leaves, what it records, what it was given to see."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.nn.target import state_digest
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.guard.short_fit import FILES, stop, tensors_of
from tests.training.small import everything, trained_target
from tests.training.tiny_guard import EPSILON, SPEC, TEST, TRAINING, Workplace
from training.guard import crafting, rectifier_stage
from training.guard import fit as module
from training.guard.fit import fit
from training.guard.fit_detector import conformal_threshold, scores
from training.guard.folder import GuardRecord, load_bank, load_guard, read_record
from training.guard.guard_attack import PER_ROUND
from training.guard.recipe import recipe_named
from training.guard.splits import split_pictures
from training.randomness import generator_for


def test_a_finished_fit_leaves_a_whole_folder(guard_folder: Path, work: Workplace) -> None:
    names = {path.name for path in guard_folder.iterdir()}
    assert names == {"guard.json", "request.json", *(f"{name}.safetensors" for name in FILES)}
    guarded, record = load_guard(guard_folder)
    assert state_digest(guarded.target) == state_digest(trained_target()) == record.target_digest
    assert (record.target, record.images, record.seed) == (work.target, str(work.images), 5)
    assert (record.norm, record.epsilon, record.rectifier) == ("linf", EPSILON, SPEC)
    assert record.input == trained_target().spec
    assert record.calibration_pictures == int(0.15 * TRAINING)
    assert record.recipe["epochs"] == 40
    stages = ["bank", "synthetic", "rectifier", "detector", "test"]
    assert list(record.seconds) == stages
    assert record.synthetic["count"] == 4
    assert record.versions["torch"] == torch.__version__


def test_the_figures_of_the_record_are_those_of_the_modules(
    guard_folder: Path, work: Workplace
) -> None:
    guarded, record = load_guard(guard_folder)
    test = work.request().test.pictures
    images = everything(test)
    with torch.no_grad():
        clean, through = guarded.target(images).argmax(1), guarded(images).logits.argmax(1)
        fooled = [
            (guarded.target((images + one).clamp(0, 1)).argmax(1) != clean).double().mean()
            for one in load_bank(guard_folder).perturbations
        ]
    assert_close(record.bank["test_fooling_rates"], fooled, FIGURE)
    assert_close(record.test["least_fooling_rate"], min(fooled), FIGURE)
    assert record.test["pictures"] == TEST
    assert_close(record.test["clean_accuracy"], (clean == test.labels).double().mean(), FIGURE)
    assert_close(
        record.test["guarded_clean_accuracy"], (through == test.labels).double().mean(), FIGURE
    )


def test_the_bank_and_its_extension_stay_in_the_ball(guard_folder: Path) -> None:
    tensors = tensors_of(guard_folder)
    for name in ("bank", "synthetic"):
        perturbations = tensors[name][0]["perturbations"]
        assert len(perturbations) == 4
        assert_close(perturbations.abs().amax(dim=(1, 2, 3)), [EPSILON] * 4, BALL)


@pytest.mark.usefixtures("_short")
def test_a_finished_fit_is_not_done_twice(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = work.request()
    record = fit(request, tmp_path / "guard")
    assert state_digest(request.loaded.target) == record.target_digest
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "guard").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(crafting, "craft_bank", stop)
        assert fit(work.request(), tmp_path / "guard") == record
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "guard").iterdir()}
        assert after == before
        with pytest.raises(KeyboardInterrupt):
            fit(work.request(), tmp_path / "guard", restart=True)
    assert not (tmp_path / "guard" / "guard.json").exists()


@pytest.mark.usefixtures("_short")
def test_another_seed_gives_another_guard(work: Workplace, tmp_path: Path) -> None:
    records = [fit(work.request(seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    one, other = (tensors_of(tmp_path / name) for name in "01")
    assert records[0].threshold != records[1].threshold
    for name in FILES[1:]:
        assert any(not torch.equal(one[name][0][key], other[name][0][key]) for key in one[name][0])


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"detector": "rbf"}, "bands"),
        ({}, "energy"),
        ({"detector": "joint"}, "energy"),
        ({"detector": "linear", "detector_features": "bands"}, "bands"),
        ({"detector": "linear"}, "plane"),
    ],
)
def test_the_detector_follows_the_request_and_comes_back(
    work: Workplace, tmp_path: Path, options: dict[str, Any], features: str
) -> None:
    record = fit(work.request(**options), tmp_path / "guard")
    guarded, read = load_guard(tmp_path / "guard")
    assert read == record
    assert guarded.detector.spec == record.detector
    assert record.detector.kernel == ("rbf" if options.get("detector") == "rbf" else "linear")
    assert record.detector.features == features
    assert float(guarded.detector.threshold) == record.threshold
    assert set(record.detection) == {"roc_area", "0.01", "0.05"}
    splits = split_pictures(work.request().training.pictures, seed=5)
    clean = scores(guarded.rectifier, guarded.detector, splits.calibration).numpy()
    assert conformal_threshold(clean, 0.1) == record.threshold


@pytest.mark.usefixtures("_short")
def test_nothing_is_fitted_on_what_was_held_out(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    drawn: dict[str, torch.Generator] = {}

    def watch(name: str) -> None:
        where = next(one for one in (module, rectifier_stage, crafting) if hasattr(one, name))
        stage = getattr(where, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            seen[name] = arguments
            drawn[name] = options.get("generator", torch.Generator())
            return stage(*arguments, **options)

        monkeypatch.setattr(where, name, watched)

    stages = ("craft_bank", "synthesise", "fit_rectifier", "fit_detector")
    for name in stages:
        watch(name)
    fit(work.request(detector="linear"), tmp_path / "guard")
    found = load_bank(tmp_path / "guard")
    made = tensors_of(tmp_path / "guard")["synthetic"][0]["perturbations"]
    assert torch.equal(seen["synthesise"][0], found.training)
    trained_on = torch.cat([found.training, made])
    assert torch.equal(seen["fit_rectifier"][2], trained_on)
    attacks = tensors_of(tmp_path / "guard")["found"][0]["perturbations"]
    assert len(attacks) == 2 * PER_ROUND
    assert torch.equal(seen["fit_detector"][3], torch.cat([trained_on, attacks]))
    seed = generator_for(5, "synthetic").initial_seed()
    assert drawn["synthesise"].initial_seed() == seed
    splits = split_pictures(work.request().training.pictures, seed=5)
    for name, position, part in (
        ("craft_bank", 1, splits.rectifier),
        ("craft_bank", 2, splits.judging),
        ("fit_rectifier", 1, splits.rectifier),
        ("fit_detector", 1, splits.detector),
        ("fit_detector", 2, splits.calibration),
    ):
        assert torch.equal(everything(seen[name][position]), everything(part)), (name, position)


@pytest.mark.usefixtures("_quick_work")
def test_the_record_tells_the_recipe(work: Workplace, tmp_path: Path) -> None:
    changes = {"recipe": "paper", "precision": "bfloat16", "epochs": 2}
    record = fit(work.request(**changes), tmp_path / "guard")
    expected = recipe_named("paper", epochs=2, precision="bfloat16")
    assert record.recipe == read_record(tmp_path / "guard").recipe == asdict(expected)


def test_the_record_is_plain_json(guard_folder: Path) -> None:
    text = json.loads((guard_folder / "guard.json").read_text())
    assert GuardRecord.model_validate(text) == read_record(guard_folder)
