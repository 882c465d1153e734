"""`attack` as a function: what it writes, and figures that can be measured again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError, StorageError
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import NAMES, SHAPE, everything, trained_target
from tests.training.tiny_subject import tiny_subject
from training.attacks.command import attack, craft_and_measure
from training.attacks.subject import Subject
from training.checkpoint import load_tensors

EPSILON = 0.15
OPTIONS: dict[str, Any] = {
    "method_name": "sign-pgd",
    "norm": "linf",
    "epsilon": EPSILON,
    "seed": 3,
    "steps": 10,
}


def _attack(out: Path, *, of: Subject | None = None, **changes: Any) -> dict[str, Any]:
    return attack(of or tiny_subject(), out, **(OPTIONS | changes))


def _crafted(**changes: Any) -> Tensor:
    return craft_and_measure(tiny_subject(), **(OPTIONS | changes))[0]


def test_the_figures_are_measured_on_the_judging_pictures(tmp_path: Path) -> None:
    result = _attack(tmp_path / "p.safetensors", target_class=1)
    assert (result["crafting_pictures"], result["judging_pictures"]) == (60, 61)
    tensors, metadata = load_tensors(tmp_path / "p.safetensors")
    assert metadata["attack"] | {"file": str(tmp_path / "p.safetensors")} == result
    assert tensors["perturbations"].shape == (1, *SHAPE)
    perturbation = tensors["perturbations"][0]
    assert_close(perturbation.abs().max(), EPSILON, BALL)
    assert_close(result["measured_norm"], EPSILON, BALL)
    judging = tiny_subject().judging
    images = everything(judging)
    with torch.no_grad():
        clean = trained_target()(images).argmax(dim=1)
        perturbed = trained_target()((images + perturbation).clamp(0, 1)).argmax(dim=1)
    for name, hits in (
        ("fooling_rate", perturbed != clean),
        ("universal_evasion_rate", perturbed != judging.labels),
        ("targeted_success_rate", perturbed == 1),
    ):
        assert_close(result[name], hits.double().mean(), FIGURE)
    assert result["fooling_rate"] != result["universal_evasion_rate"]
    assert result["targeted_success_rate"] > 0.5


def test_what_is_deployed_is_judged_and_what_is_attacked_is_not(tmp_path: Path) -> None:
    def unmoved(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    subject = tiny_subject(deployed=unmoved)
    result = _attack(tmp_path / "p.safetensors", of=subject)
    wrong = (subject.judging.labels != 1).double().mean()
    assert result["fooling_rate"] == 0
    assert_close(result["universal_evasion_rate"], wrong, FIGURE)
    assert torch.equal(load_tensors(tmp_path / "p.safetensors")[0]["perturbations"][0], _crafted())


def test_clean_predictions_that_are_known_are_not_asked_for_again() -> None:
    subject = tiny_subject()
    clean = subject.clean_predictions()
    known = craft_and_measure(subject, **OPTIONS, clean=clean)[1]
    shifted = craft_and_measure(subject, **OPTIONS, clean=(clean + 1) % 3)[1]
    assert known["fooling_rate"] == craft_and_measure(subject, **OPTIONS)[1]["fooling_rate"]
    assert shifted["fooling_rate"] != known["fooling_rate"]


@pytest.mark.parametrize("method", ["sign-pgd", "iterative-deepfool", "perlin"])
def test_a_seed_repeats_and_another_differs(tmp_path: Path, method: str) -> None:
    steps = None if method == "iterative-deepfool" else 5
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    results = []
    for path, seed in zip(files, (0, 0, 1), strict=True):
        results.append(_attack(path, method_name=method, steps=steps, seed=seed))
    varying = ("file", "crafting_seconds")
    first, again, _ = ({k: v for k, v in one.items() if k not in varying} for one in results)
    assert first == again
    crafted = [load_tensors(path)[0]["perturbations"] for path in files]
    assert torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[0], crafted[2])


@pytest.mark.parametrize(
    "change",
    [
        {"target_class": 2},
        {"steps": 2},
        {"loss": "logit_margin"},
        {"start": torch.full(SHAPE, 0.14)},
        {"norm": "l2", "epsilon": 1.5},
    ],
)
def test_every_option_reaches_the_attack(change: dict[str, Any]) -> None:
    usual = {"steps": 3}
    assert not torch.equal(_crafted(**usual), _crafted(**(usual | change)))


def test_the_true_labels_do_not_guide_the_attack() -> None:
    subject = tiny_subject()
    subject.crafting.labels.copy_((subject.crafting.labels + 1) % 3)
    assert torch.equal(craft_and_measure(subject, **OPTIONS)[0], _crafted())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method_name": "magic"}, "no attack 'magic'; choose one of: sign-pgd"),
        ({"epsilon": 0.0}, "epsilon is 0 in linf"),
        ({"epsilon": 1.5}, "divide by 255"),
        ({"norm": "l2", "epsilon": 12.5}, "at most 12 "),
        ({"norm": "l1"}, "expected 'linf' or 'l2'"),
        ({"target_class": len(NAMES)}, "target_class is 3; expected 0 to 2"),
        (
            {"method_name": "iterative-deepfool", "target_class": 1},
            "no use for target_class: leave it out",
        ),
        ({"method_name": "perlin", "loss": "logit_margin"}, "no use for loss: leave it out"),
        ({"method_name": "perlin", "start": torch.zeros(SHAPE)}, "no use for start"),
        ({"loss": "hinge"}, "loss is 'hinge'; expected one of cross_entropy"),
        ({"loss": "logit_cosine", "target_class": 1}, "logit_cosine .* knows no target"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _attack(tmp_path / "p.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.safetensors").mkdir()
    with pytest.raises(StorageError, match="could not be written"):
        _attack(tmp_path / "p.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_a_name_by_which_the_file_would_not_be_read_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="a name that ends in"):
        _attack(tmp_path / "p.pt")
    assert not list(tmp_path.iterdir())
