"""Does a guard merely hide its gradients? Then attacks that do without them beat those that do not.

Source: Athalye, Carlini and Wagner 2018, "Obfuscated Gradients Give a False Sense of Security",
section 3.1: an attack that sees everything must be at least as strong as one that is transferred,
and that one as one that sees nothing.
"""

from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import Tensor

from training.attacks.norms import Norm
from training.datasets.fitting import Shape
from training.evaluation.informed.random_search import random_signs, to_ball
from training.evaluation.metrics import Figure

ACCURACY = "guarded_perturbed_accuracy"


class Verdict(TypedDict):
    """Accuracy left by the strongest of each kind, and whether their order is what it must be."""

    white_box: Figure
    transfer: Figure
    black_box: Figure
    white_box_at_least_transfer: bool
    white_box_at_least_black_box: bool
    transfer_at_least_black_box: bool
    ordered: bool


def verdict(white_box: Figure, transfer: Figure, black_box: Figure) -> Verdict:
    """Compare the guarded accuracies under the strongest attack of each kind."""
    over_transfer = at_least_as_strong(white_box, transfer)
    over_black_box = at_least_as_strong(white_box, black_box)
    transfer_over = at_least_as_strong(transfer, black_box)
    return Verdict(
        white_box=white_box,
        transfer=transfer,
        black_box=black_box,
        white_box_at_least_transfer=over_transfer,
        white_box_at_least_black_box=over_black_box,
        transfer_at_least_black_box=transfer_over,
        ordered=over_transfer and over_black_box and transfer_over,
    )


def at_least_as_strong(one: Figure, other: Figure) -> bool:
    """Whether attack `one` leaves no more accuracy than `other`, up to chance.

    Chance is `one`'s own 95 % interval: `other` may not fall below its lower end.
    """
    return other["value"] >= one["low"]


def strongest(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The row of least guarded accuracy; the first of several."""
    return min(rows, key=lambda row: float(row[ACCURACY]["value"]))


def corner_noise(shape: Shape, norm: Norm, epsilon: float, generator: torch.Generator) -> Tensor:
    """+-epsilon in every value of `(C, H, W)` at random; in l2 such a pattern on the ball."""
    return to_ball(random_signs(shape, generator), norm, epsilon)
