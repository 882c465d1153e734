"""rho_adv: how far pictures are from the nearest boundary, relative to their own length.

Source: Jakubovitz and Giryes 2018, "Improving DNN Robustness to Adversarial Attacks using Jacobian
Regularization", section 4: the mean over pictures of the l2 norm of DeepFool's step divided by the
l2 norm of the picture.

Departures: pictures that DeepFool does not carry over a boundary have no such step and are left out
of the mean, counted and reported; an interval by the bootstrap over pictures stands beside it.
"""

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.attacks.deepfool import deepfool_steps
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.norms import norm_of
from training.datasets import Pictures, batch_for, batches
from training.evaluation.metrics import Figure, ratio

LARGEST_BATCH = 200
MAX_ITERATIONS = 50


class RelativeDistance(TypedDict):
    """rho_adv, and the pictures that it says nothing about."""

    rho_adv: Figure | None
    """Over the pictures that crossed a boundary; None where not one did."""
    not_crossed: int
    """Pictures whose label DeepFool did not change."""


def rho_adv(
    classifier: Classifier,
    pictures: Pictures,
    *,
    max_iterations: int = MAX_ITERATIONS,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> RelativeDistance:
    """Mean of `||step||_2 / ||picture||_2` over `pictures`, by batched DeepFool.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of `pictures`.
        pictures: what to measure on; their labels are not looked at, as DeepFool leaves the
            prediction.
        max_iterations: of DeepFool.
        seed: of the bootstrap.
        on_step: told of the pictures done and the pictures in all.

    Raises:
        DataError: a picture is black all over, so that no length is relative to its own.
    """
    ratios: list[Tensor] = []
    done = 0
    for images, _ in batches(pictures, batch_for(pictures.shape, LARGEST_BATCH)):
        lengths = norm_of(images, "l2")
        if bool((lengths == 0).any()):
            raise DataError(
                f"Picture {done + int((lengths == 0).nonzero()[0])} is black all over; rho_adv "
                "divides by the length of each picture. Leave it out."
            )
        steps = deepfool_steps(classifier, images, max_iterations=max_iterations)
        with torch.no_grad():
            crossed = classifier(images + steps).argmax(dim=1) != classifier(images).argmax(dim=1)
        ratios.append((norm_of(steps, "l2") / lengths)[crossed].cpu())
        done += len(images)
        if on_step is not None:
            on_step(done, len(pictures))
    found = torch.cat(ratios).double().numpy()
    figure = None
    if len(found):
        figure = ratio(lambda means: float(means[0]), np.asarray(found)[:, None], seed=seed)
    return RelativeDistance(rho_adv=figure, not_crossed=len(pictures) - len(found))
