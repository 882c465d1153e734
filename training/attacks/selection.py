"""Choosing among finished perturbations by the labels that a classifier answers."""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.fooling import Classifier, check_class, predict
from training.datasets import Pictures, Subset, held_in_memory

SAMPLE: Final = 200
"""Crafting pictures that a choice is made on: rates are then good for 0.035."""


@torch.no_grad()
def best_of(
    classifier: Classifier,
    pictures: Pictures,
    candidates: Iterable[Tensor],
    *,
    generator: torch.Generator,
    target_class: int | None = None,
    sample: int = SAMPLE,
) -> Tensor:
    """The candidate that changes most predictions, or sends most pictures to `target_class`.

    Only labels are asked for, no gradients. Candidates are taken one at a time, and the sample of
    pictures is bounded, so memory grows with neither.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: the crafting set.
        candidates: perturbations `(C, H, W)`, at least one.
        generator: draws the sample.
        target_class: count the pictures that get there; None counts changed predictions.
        sample: how many of `pictures` to ask about, at most.

    Raises:
        InvalidArgumentError: no candidates, or a class that does not exist.
    """
    if target_class is not None:
        check_class(target_class, len(pictures.class_names))
    chosen = torch.randperm(len(pictures), generator=generator)[:sample]
    asked = held_in_memory(Subset(pictures, chosen), device=pictures.device)
    clean = predict(classifier, asked)
    best, best_count = None, -1
    for candidate in candidates:
        answers = predict(classifier, asked, candidate)
        hits = answers != clean if target_class is None else torch.eq(answers, target_class)
        count = int(hits.sum())
        if count > best_count:
            best, best_count = candidate, count
    if best is None:
        raise InvalidArgumentError("There is no candidate to choose; expected at least one.")
    return best
