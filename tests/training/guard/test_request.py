"""What a fit may be asked for, and the folder that belongs to one request alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.errors import DataError, InvalidArgumentError, StorageError
from prn_guard.nn.rectifier import RectifierSpec
from tests.training.small import pictures
from tests.training.tiny_guard import EPSILON, Workplace
from training.datasets import NamedPictures
from training.guard.recipe import recipe_named


def test_the_fingerprint_names_all_that_the_result_depends_on(work: Workplace) -> None:
    print_ = work.request().fingerprint()
    assert print_ == json.loads(json.dumps(print_))
    assert print_["target"] == work.target
    assert len({print_["pictures"], print_["test pictures"]}) == 2
    assert (print_["norm"], print_["epsilon"], print_["seed"]) == ("linf", EPSILON, 5)
    assert len(print_["target weights"]) == 64


def test_a_request_comes_back_to_its_folder(work: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "guard"
    work.request().claim(out, restart=False)
    (out / "bank.safetensors").write_bytes(b"kept")
    work.request().claim(out, restart=False)
    assert (out / "bank.safetensors").read_bytes() == b"kept"
    assert json.loads((out / "request.json").read_text()) == work.request().fingerprint()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, ["seed (5 there, 6 now)"]),
        ({"epochs": None}, ["epochs (40 there, None now)"]),
        ({"architecture": "paper"}, ["architecture (compact there, paper now)"]),
        ({"recipe": "paper"}, ["recipe (default there, paper now)"]),
        ({"precision": "bfloat16"}, ["precision (float32 there, bfloat16 now)"]),
        ({"processes": 2}, ["processes (1 there, 2 now)"]),
        ({"detector": "rbf"}, ["detector (None there, rbf now)"]),
        ({"rounds": 3}, ["rounds (None there, 3 now)"]),
        ({"clean_divergence": 0.5}, ["clean_divergence (None there, 0.5 now)"]),
        ({"pixels": 0.0}, ["pixels (None there, 0.0 now)"]),
        (
            {"detector": "linear", "detector_features": "energy"},
            ["detector (None there, linear now)", "detector_features (None there, energy now)"],
        ),
        ({"members": 5, "synthetic": 9}, ["members (4 there, 5 now)", "synthetic (4 there, 9"]),
    ],
)
def test_other_settings_are_refused_by_name(
    work: Workplace, tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    work.request().claim(tmp_path, restart=False)
    before = (tmp_path / "request.json").read_bytes()
    with pytest.raises(InvalidArgumentError) as refused:
        work.request(**changes).claim(tmp_path, restart=False)
    text = str(refused.value)
    assert all(part in text for part in named)
    assert text.count(" there, ") == len(named)
    assert "--restart" in text
    assert (tmp_path / "request.json").read_bytes() == before


def test_another_ball_other_pictures_and_other_weights_are_refused(
    work: Workplace, tmp_path: Path
) -> None:
    request = work.request()
    request.claim(tmp_path, restart=False)
    fewer = NamedPictures(request.training.spec, pictures(150))
    for changes, named in (
        ({"epsilon": 0.1}, "epsilon (0.15 there, 0.1 now)"),
        ({"norm": "l2"}, "norm (linf there, l2 now)"),
        ({"training": fewer}, "150 of digest "),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            dataclasses.replace(request, **changes).claim(tmp_path, restart=False)
        assert named in str(refused.value)
    with torch.no_grad():
        request.loaded.target.classifier[-1].bias += 1
    with pytest.raises(InvalidArgumentError, match="another target weights"):
        request.claim(tmp_path, restart=False)


def test_restart_throws_the_earlier_fit_away(work: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "guard"
    work.request().claim(out, restart=False)
    (out / "state").mkdir()
    for name in ("bank.safetensors", "state/bank.safetensors", ".guard.json.x1y2"):
        (out / name).write_bytes(b"old")
    work.request(seed=6).claim(out, restart=True)
    assert [path.name for path in out.iterdir()] == ["request.json"]
    assert json.loads((out / "request.json").read_text())["seed"] == 6


@pytest.mark.parametrize("restart", [True, False])
def test_a_folder_of_other_files_is_refused(
    work: Workplace, tmp_path: Path, *, restart: bool
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgumentError, match="holds no fit"):
        work.request().claim(tmp_path, restart=restart)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_restart_spares_what_is_no_part_of_a_fit(work: Workplace, tmp_path: Path) -> None:
    work.request().claim(tmp_path, restart=False)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgumentError, match=r"thesis\.txt.* --restart would delete"):
        work.request(seed=6).claim(tmp_path, restart=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(work: Workplace, tmp_path: Path) -> None:
    (tmp_path / "guard").write_text("a file")
    with pytest.raises(InvalidArgumentError, match="holds no fit"):
        work.request().claim(tmp_path / "guard", restart=False)
    with pytest.raises(StorageError):
        work.request().claim(tmp_path / "guard" / "inner", restart=False)
    (tmp_path / "other").mkdir()
    work.request().claim(tmp_path / "other", restart=False)  # an empty folder is fine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_positive_rate": 0.0}, "between 0 and 1"),
        ({"false_positive_rate": 1.0}, "between 0 and 1"),
        ({"false_positive_rate": float("nan")}, "between 0 and 1"),
        ({"epochs": 0.0}, "epochs is 0.0"),
        ({"recipe": "fast"}, "recipe is 'fast'"),
        ({"held_out": 0}, "0 of 4 perturbations"),
        ({"held_out": 4}, "at least 1 left to train on"),
        ({"detector": "rbf", "detector_features": "plane"}, "expected 'bands'"),
        ({"detector_features": "bands"}, "features 'bands' .* expected the detector 'linear'"),
        ({"detector": "joint", "detector_features": "energy"}, "features of its own"),
        ({"recipe": "paper", "detector": "joint"}, "trains no detector together"),
        ({"recipe": "paper", "rounds": 1}, "rounds is 1 and detection is 0"),
        ({"rounds": -1}, "rounds is -1"),
        ({"clean_divergence": -1.0}, "clean_divergence is -1.0; expected 0 or more"),
        ({"pixels": float("nan")}, "pixels is nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    work: Workplace, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        work.request(**changes)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5, float("nan")])
def test_a_ball_that_makes_no_sense_is_refused(work: Workplace, epsilon: float) -> None:
    with pytest.raises(InvalidArgumentError, match="epsilon"):
        dataclasses.replace(work.request(), epsilon=epsilon)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_terms_of_the_loss_take_the_weights_that_are_given(work: Workplace, recipe: str) -> None:
    own = recipe_named(recipe)
    assert work.request(recipe=recipe, epochs=None).recipe() == own
    weights = {"clean_divergence": 0.5, "pixels": 0.0 if own.pixels else 3.0}
    asked = work.request(recipe=recipe, epochs=None, **weights).recipe()
    assert asked == dataclasses.replace(own, **weights)


def test_figures_on_the_training_pictures_are_not_fitted_for(work: Workplace) -> None:
    request = work.request()
    with pytest.raises(DataError, match=r"those that the guard is fitted on \(240 of digest"):
        dataclasses.replace(request, test=request.training)


def test_the_rectifier_follows_the_request(work: Workplace) -> None:
    assert work.request(architecture="paper").rectifier().architecture == "paper"
    usual = RectifierSpec(channels=1, factor=1, width=12, blocks=1, levels=3)
    assert work.request().rectifier() == usual
    shaped = work.request(factor=2, width=7, blocks=2, levels=1).rectifier()
    assert shaped == usual.model_copy(update={"factor": 2, "width": 7, "blocks": 2, "levels": 1})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"factor": 9}, "factor is 9; Input should be less than or equal to 8"),
        ({"width": 0}, "width is 0"),
        ({"architecture": "paper", "levels": 2}, "levels .* was given, .* has one shape"),
    ],
)
def test_a_rectifier_that_cannot_be_built_is_refused(
    work: Workplace, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        work.request(**changes)
