"""`attack` as a function: what it writes, and figures that can be measured again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.errors import DataError, InvalidArgumentError, StorageError
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import NAMES, everything, pictures, trained_target
from tests.training.tiny_guard import partly_mislabelled
from training.attacks.command import craft_and_measure
from training.attacks.registry import METHODS
from training.checkpoint import load_tensors
from training.datasets import ArrayPictures, Subset
from training.randomness import generator_for

COUNT = 121
EPSILON = 0.15


def _known() -> ArrayPictures:
    """Pictures of which the target gets a tenth wrong."""
    return partly_mislabelled(pictures(COUNT, seed=4))


def _attack(
    out: Path, *, of: ArrayPictures | Subset | None = None, **changes: Any
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "method_name": "sign-pgd",
        "norm": "linf",
        "epsilon": EPSILON,
        "seed": 3,
        "steps": 10,
    }
    return craft_and_measure(trained_target(), of or _known(), out, **(options | changes))


def test_the_figures_are_measured_on_pictures_kept_apart(tmp_path: Path) -> None:
    result = _attack(tmp_path / "p.safetensors", target_class=1)
    assert (result["crafting_pictures"], result["judging_pictures"]) == (60, 61)
    tensors, metadata = load_tensors(tmp_path / "p.safetensors")
    assert metadata["attack"] | {"file": str(tmp_path / "p.safetensors")} == result
    assert tensors["perturbations"].shape == (1, 1, 12, 12)
    perturbation = tensors["perturbations"][0]
    assert_close(perturbation.abs().max(), EPSILON, BALL)
    assert_close(result["measured_norm"], EPSILON, BALL)
    known = _known()
    order = torch.randperm(COUNT, generator=generator_for(3, "attack split"))
    images, labels = everything(known)[order[60:]], known.labels[order[60:]]
    with torch.no_grad():
        clean = trained_target()(images).argmax(dim=1)
        perturbed = trained_target()((images + perturbation).clamp(0, 1)).argmax(dim=1)
    for name, hits in (
        ("fooling_rate", perturbed != clean),
        ("universal_evasion_rate", perturbed != labels),
        ("targeted_success_rate", perturbed == 1),
    ):
        assert_close(result[name], hits.double().mean(), FIGURE)
    assert result["targeted_success_rate"] > 0.5


@pytest.mark.parametrize("method", list(METHODS))
def test_a_seed_repeats_and_another_differs(tmp_path: Path, method: str) -> None:
    steps = None if method == "iterative-deepfool" else 5
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        _attack(path, method_name=method, steps=steps, seed=seed)
    first, again, other = (path.read_bytes() for path in files)
    assert first == again
    assert not torch.equal(*(load_tensors(path)[0]["perturbations"] for path in files[1:]))
    assert first != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method_name": "magic"}, "no attack 'magic'; choose one of: sign-pgd"),
        ({"epsilon": 0.0}, "epsilon is 0 in linf"),
        ({"epsilon": 1.5}, "divide by 255"),
        ({"norm": "l2", "epsilon": 12.5}, "at most 12 "),
        ({"norm": "l1"}, "expected 'linf' or 'l2'"),
        ({"target_class": len(NAMES)}, "target_class is 3; expected 0 to 2"),
        ({"method_name": "iterative-deepfool"}, "no use for steps: leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _attack(tmp_path / "p.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="others to judge by"):
        _attack(tmp_path / "p.safetensors", of=Subset(pictures(3), torch.tensor([0])))


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.safetensors").mkdir()
    with pytest.raises(StorageError, match="could not be written"):
        _attack(tmp_path / "p.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]
