"""Reference attacks where the answer is known, and what the adapter must leave as it was."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, LIBRARY_DEEPFOOL, LIBRARY_STEP, assert_close
from tests.training.small import (
    SHAPE,
    VALUES,
    everything,
    gray_pictures,
    linear_classifier,
    pictures,
    through_the_middle,
    trained_target,
)
from training.attacks.deepfool import deepfool_steps
from training.attacks.norms import norm_of
from training.attacks.per_image import (
    PER_IMAGE_ATTACKS,
    PerImageNorm,
    per_image,
    per_image_attack,
)

KNOWN = [(name, norm) for name, entry in PER_IMAGE_ATTACKS.items() for norm in entry.norms]
BALLS: dict[PerImageNorm, float] = {"linf": 0.1, "l2": 1.0, "l0": 0.1}
LONG = 12.0
"""Longer than any l2 step between two pictures of the tests."""


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _on_plane(name: str, norm: PerImageNorm, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Perturbations of gray pictures, the sides `(B,)` they came from, and the unit normal."""
    classifier, normal = through_the_middle(gray_pictures(20))
    images = everything(gray_pictures(20))
    labels = classifier(images).argmax(dim=1)
    found = per_image_attack(
        name, classifier, images, labels, norm=norm, epsilon=epsilon, generator=_seed()
    )
    return found - images, (2 * labels - 1)[:, None, None, None], normal


def _attack(name: str, norm: PerImageNorm, *, seed: int = 0, count: int = 40) -> Tensor:
    some = pictures(count, seed=9)
    steps = per_image(name).steps
    return per_image_attack(
        name,
        trained_target(),
        everything(some),
        some.labels,
        norm=norm,
        epsilon=BALLS[norm],
        generator=_seed(seed),
        steps=None if steps is None else min(steps, 150),
    )


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_in_linf_gradient_attacks_find_the_worst_corner_of_a_linear_classifier(name: str) -> None:
    found, sides, normal = _on_plane(name, "linf", 0.1)
    assert_close(found, -0.1 * sides * normal.sign(), BALL)


def test_in_l2_gradient_attacks_go_along_the_normal() -> None:
    found, sides, normal = _on_plane("fgsm", "l2", 0.5)
    assert_close(found, -0.5 * sides * normal / normal.norm(), LIBRARY_STEP)
    found, sides, normal = _on_plane("pgd", "l2", 0.5)
    reached = -(found * sides * normal).sum(dim=(1, 2, 3)) / (0.5 * normal.norm())
    # Each of the 40 steps takes a sixteenth off what is left of the random start.
    assert float(reached.min()) > 0.97


def test_deepfool_takes_the_distance_to_the_plane_and_no_more_than_the_ball() -> None:
    classifier, normal = through_the_middle(gray_pictures(20))
    logits = classifier(everything(gray_pictures(20))).double()
    distances = (logits[:, 1] - logits[:, 0]).abs() / normal.double().norm()
    free, _, _ = _on_plane("deepfool", "l2", LONG)
    assert_close(norm_of(free, "l2"), 1.02 * distances, LIBRARY_STEP)
    middle = float(distances.median())
    held, _, _ = _on_plane("deepfool", "l2", middle)
    assert_close(norm_of(held, "l2"), (1.02 * distances).clamp(max=middle), LIBRARY_STEP)


def test_deepfool_agrees_with_ours_also_beyond_ten_classes() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 20), nn.Tanh(), nn.Linear(20, 13))
    images = everything(gray_pictures(12))
    labels = torch.zeros(12, dtype=torch.int64)
    theirs = per_image_attack(
        "deepfool", network, images, labels, norm="l2", epsilon=LONG, generator=_seed()
    )
    ours = deepfool_steps(network, images, max_iterations=50)
    assert_close(theirs - images, ours, LIBRARY_DEEPFOOL)


@pytest.mark.parametrize("allowed", [2, 3, 6])
def test_jsma_makes_the_values_white_that_count_most(allowed: int) -> None:
    normal = torch.randn(SHAPE, generator=_seed(1))
    classifier = linear_classifier(normal, 1000.0)
    images = everything(gray_pictures(5))
    found = per_image_attack(
        "jsma",
        classifier,
        images,
        torch.ones(5, dtype=torch.int64),
        norm="l0",
        epsilon=allowed / VALUES,
        generator=_seed(),
    )
    # The picture is far from the boundary, so all that is allowed is used, in pairs.
    worst = (-normal.flatten()).topk(2 * (allowed // 2)).indices
    expected = images.flatten(1).clone()
    expected[:, worst] = 1.0
    assert torch.equal(found.flatten(1), expected)


def test_square_never_helps_the_label() -> None:
    found, sides, normal = _on_plane("square", "linf", 0.02)
    gained = (found * normal).sum(dim=(1, 2, 3)) * sides.flatten()
    assert float(gained.max()) <= 0.0
    assert float((gained < 0).double().mean()) > 0.9


@pytest.mark.parametrize(("name", "norm"), KNOWN)
def test_every_attack_stays_in_its_ball_repeats_and_hurts(name: str, norm: PerImageNorm) -> None:
    some = pictures(40, seed=9)
    images, target = everything(some), trained_target()
    before = images.clone()
    found = _attack(name, norm)
    assert (found.shape, found.dtype, found.requires_grad) == (images.shape, torch.float32, False)
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    moved = found - images
    if norm == "l0":
        assert int((moved != 0).flatten(1).sum(dim=1).max()) <= BALLS[norm] * VALUES
    else:
        assert float(norm_of(moved, norm).max()) <= BALLS[norm] + BALL.absolute
    right = (target(found).argmax(dim=1) == some.labels).double().mean()
    clean = (target(before).argmax(dim=1) == some.labels).double().mean()
    assert clean > 0.95
    assert right < 0.5
    assert torch.equal(found, _attack(name, norm))


@pytest.mark.parametrize("name", ["jsma", "square"])
def test_random_choices_are_the_generators(name: str) -> None:
    norm = per_image(name).norms[0]
    assert not torch.equal(_attack(name, norm), _attack(name, norm, seed=1))


def test_global_generators_are_put_back() -> None:
    before = (np.random.get_state(), random.getstate(), torch.get_rng_state())  # noqa: NPY002
    _attack("square", "linf", count=5)
    after = (np.random.get_state(), random.getstate(), torch.get_rng_state())  # noqa: NPY002
    np.testing.assert_equal(after[0], before[0])
    assert after[1] == before[1]
    assert torch.equal(after[2], before[2])


def test_classifier_and_pictures_are_left_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 4), nn.Dropout(0.0)).train()
    images = everything(gray_pictures(6))
    before = images.clone()
    labels = torch.arange(6) % 4
    for name, norm in KNOWN:
        per_image_attack(
            name, network, images, labels, norm=norm, epsilon=BALLS[norm], generator=_seed()
        )
    assert torch.equal(images, before)
    assert network.training
    assert all(part.training for part in network)
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert capfd.readouterr() == ("", "")


def test_any_callable_is_a_classifier() -> None:
    classifier, _ = through_the_middle(gray_pictures(20))
    images, labels = everything(gray_pictures(20)), gray_pictures(20).labels
    found = [
        per_image_attack(
            "pgd", each, images, labels, norm="linf", epsilon=0.1, generator=_seed(), steps=5
        )
        for each in (classifier, lambda pixels: 3 * classifier(pixels))
    ]
    assert torch.equal(found[0], found[1])


def test_progress_is_told_in_pictures() -> None:
    told: list[tuple[int, int]] = []
    some = pictures(150, seed=9)
    per_image_attack(
        "fgsm",
        trained_target(),
        everything(some),
        some.labels,
        norm="linf",
        epsilon=0.1,
        generator=_seed(),
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(100, 150), (150, 150)]


def test_what_makes_no_sense_is_refused() -> None:
    some = pictures(4, seed=9)
    images, labels = everything(some), some.labels

    def refused(
        message: str,
        name: str = "pgd",
        norm: PerImageNorm = "linf",
        epsilon: float = 0.1,
        *,
        seen: Tensor = images,
        true: Tensor = labels,
        steps: int | None = None,
    ) -> None:
        with pytest.raises(InvalidArgumentError, match=message):
            per_image_attack(
                name,
                trained_target(),
                seen,
                true,
                norm=norm,
                epsilon=epsilon,
                generator=_seed(),
                steps=steps,
            )

    refused("no per-image attack 'cw'; choose one of: fgsm, pgd", name="cw")
    refused("jsma attacks in l0, not in linf: choose one of fgsm, pgd, square", name="jsma")
    refused("deepfool attacks in l2, not in linf", name="deepfool")
    refused("pgd attacks in linf and l2, not in l0: choose one of jsma", norm="l0")
    refused("square attacks in linf, not in l2", name="square", norm="l2")
    refused("divide by 255", epsilon=8)
    refused("share of values", name="jsma", norm="l0", epsilon=0.01)
    refused("share of values", name="jsma", norm="l0", epsilon=8)
    refused("takes no number of steps", name="fgsm", steps=3)
    refused("needs 1", steps=0)
    refused("run from 0 to 7; expected 0 to 2", true=torch.tensor([0, 7, 1, 2]))
    refused("expected \\(B, C, H, W\\) and \\(B,\\)", true=labels[:2])
    refused("square pictures; these are 12x8", name="square", seen=images[..., :8])


def test_without_the_library_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "art.estimators", None)
    with pytest.raises(InvalidArgumentError, match=r"pip install 'prn-guard\[reference-attacks\]'"):
        _attack("fgsm", "linf")


def test_summaries_are_lines_of_their_own() -> None:
    summaries = {entry.summary for entry in PER_IMAGE_ATTACKS.values()}
    assert len(summaries) == len(PER_IMAGE_ATTACKS)
    assert not any("\n" in summary for summary in summaries)
