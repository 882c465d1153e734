"""rho_adv where the distance to the boundary is known, and beside the library's DeepFool."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import DataError
from tests.tolerances import BOOTSTRAP, DEEPFOOL_STEP, LIBRARY_DEEPFOOL, assert_close
from tests.training.small import (
    CLASSES,
    SHAPE,
    everything,
    gray_pictures,
    pictures,
    through_the_middle,
    trained_target,
)
from training.attacks.deepfool import NUDGE, OVERSHOOT
from training.attacks.per_image import per_image_attack
from training.datasets import ArrayPictures
from training.evaluation.robustness import rho_adv


def _ratios() -> Tensor:
    """What each of 40 gray pictures adds to rho_adv of a linear classifier, in closed form."""
    classifier, normal = through_the_middle(gray_pictures(40))
    images = everything(gray_pictures(40))
    logits = classifier(images).double()
    gaps = (logits[:, 1] - logits[:, 0]).abs() + NUDGE
    lengths = images.double().flatten(1).norm(dim=1)
    return gaps / normal.double().norm() / lengths * (1 + OVERSHOOT)


def test_a_linear_classifier_has_it_in_closed_form() -> None:
    classifier, _ = through_the_middle(gray_pictures(40))
    told: list[tuple[int, int]] = []
    found = rho_adv(
        classifier, gray_pictures(40), on_step=lambda done, total: told.append((done, total))
    )
    figure, expected = found["rho_adv"], _ratios()
    assert figure is not None
    assert (figure["n"], found["not_crossed"], told) == (40, 0, [(40, 40)])
    assert_close(figure["value"], expected.mean(), DEEPFOOL_STEP)
    half = 1.96 * float(expected.std()) / np.sqrt(40)
    assert_close(figure["high"] - figure["low"], 2 * half, BOOTSTRAP)
    assert figure["low"] < figure["value"] < figure["high"]


def test_it_agrees_with_the_librarys_deepfool() -> None:
    some, target = pictures(60, seed=9), trained_target()
    images = everything(some)
    theirs = per_image_attack(
        "deepfool",
        target,
        images,
        some.labels,
        norm="l2",
        epsilon=12.0,
        generator=torch.Generator().manual_seed(0),
    )
    lengths = (theirs - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    found = rho_adv(target, some)
    assert found["not_crossed"] == 0
    assert found["rho_adv"] is not None
    assert_close(found["rho_adv"]["value"], lengths.double().mean(), LIBRARY_DEEPFOOL)


def test_pictures_that_never_cross_are_counted_and_left_out() -> None:
    classifier, _ = through_the_middle(gray_pictures(40))
    images = everything(gray_pictures(40))
    far = images[:, 0, 0, 0] > 0.5

    def stubborn(pixels: Tensor) -> Tensor:
        """Bright in the first corner: always "no", whatever happens elsewhere."""
        held = torch.tensor([100.0, 0.0]) + 0 * pixels.sum(dim=(1, 2, 3))[:, None]
        return torch.where((pixels[:, 0, 0, 0] > 0.5)[:, None], held, classifier(pixels))

    found = rho_adv(stubborn, gray_pictures(40))
    kept = _ratios()[~far]
    assert found["rho_adv"] is not None
    assert (found["rho_adv"]["n"], found["not_crossed"]) == (len(kept), int(far.sum()))
    assert 0 < len(kept) < 40

    found = rho_adv(lambda pixels: 0 * pixels.flatten(1)[:, :CLASSES], gray_pictures(8))
    assert found == {"rho_adv": None, "not_crossed": 8}


def test_a_black_picture_is_refused() -> None:
    pixels = torch.full((3, *SHAPE), 9, dtype=torch.uint8)
    pixels[1] = 0
    black = ArrayPictures(pixels, torch.zeros(3, dtype=torch.int64), ("a",))
    with pytest.raises(DataError, match="Picture 1 is black"):
        rho_adv(trained_target(), black)
