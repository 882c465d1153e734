"""What gradient-based attacks ascend: the mean loss of mini-batches under each perturbation."""

from collections.abc import Callable, Sequence
from typing import Final, get_args

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.fooling import Classifier, check_class, predict
from training.attacks.losses import (
    LossName,
    clipped_cross_entropy,
    closeness_to_class,
    logit_cosine,
    logit_margin,
    margin_of_class,
)
from training.attacks.norms import perturb
from training.datasets import Pictures

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps images `(B, C, H, W)`, their positions `(B,)` in the crafting set, and perturbations
`(P, C, H, W)` to the values `(P,)` to ascend, one per perturbation."""

LOSSES: Final[tuple[LossName, ...]] = get_args(LossName)
_FORMS: Final[
    dict[LossName, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, int], Tensor]]]
] = {
    "cross_entropy": (clipped_cross_entropy, closeness_to_class),
    "logit_margin": (logit_margin, margin_of_class),
    "logit_cosine": (logit_cosine, margin_of_class),
}
"""Away from what the clean picture got, and towards a class (refused for `logit_cosine`)."""


def mean_loss(
    classifier: Classifier,
    pictures: Pictures,
    target_classes: Sequence[int | None],
    *,
    loss: LossName = "cross_entropy",
) -> Objective:
    """The mean `loss` over a mini-batch, per perturbation.

    Labels are the classifier's own clean predictions on `pictures`, because that is what the
    fooling rate is measured against. All perturbations see the same mini-batch, in one pass of
    `P * B` pictures.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: the crafting set.
        target_classes: for each perturbation the class to send pictures to; None drives them
            from their clean predictions.
        loss: what to ascend; of a class to reach, its targeted form.

    Raises:
        InvalidArgumentError: a class that does not exist, an unknown loss, or a target class for
            `logit_cosine`, which has no targeted form.
    """
    _check(target_classes, loss, len(pictures.class_names))
    away, towards = _FORMS[loss]
    labels = None
    if None in target_classes and loss != "logit_cosine":
        labels = predict(classifier, pictures)

    @torch.no_grad()
    def reference(images: Tensor, positions: Tensor) -> Tensor:
        return classifier(images) if labels is None else labels[positions].to(images.device)

    def objective(images: Tensor, positions: Tensor, perturbations: Tensor) -> Tensor:
        seen = perturb(images, perturbations[:, None])
        logits = classifier(seen.flatten(0, 1)).reshape(*seen.shape[:2], -1)
        home = reference(images, positions) if None in target_classes else None
        values = [
            away(one, home) if home is not None and wanted is None else towards(one, wanted or 0)
            for one, wanted in zip(logits, target_classes, strict=True)
        ]
        return torch.stack(values).mean(dim=1)

    return objective


def _check(target_classes: Sequence[int | None], loss: str, classes: int) -> None:
    if loss not in LOSSES:
        raise InvalidArgumentError(f"loss is {loss!r}; expected one of {', '.join(LOSSES)}.")
    for target_class in target_classes:
        if target_class is None:
            continue
        check_class(target_class, classes)
        if loss == "logit_cosine":
            raise InvalidArgumentError(
                "logit_cosine drives pictures away from their clean logits and knows no target "
                "class; take cross_entropy or logit_margin, or leave out the class."
            )
