"""What a classifier answers, clean and under a perturbation."""

from collections.abc import Callable

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import perturb
from training.datasets import Pictures, batch_for, batches

Classifier = Callable[[Tensor], Tensor]
"""Maps `(B, C, H, W)` float32 in [0, 1] to logits `(B, K)`, on the device of the pictures; a torch
module is one."""

EVALUATION_BATCH = 500


@torch.no_grad()
def predict(
    classifier: Classifier, pictures: Pictures, perturbation: Tensor | None = None
) -> Tensor:
    """Predicted labels `(N,)` int64 on the CPU, under `perturbation` `(C, H, W)` if given."""
    answers = []
    if perturbation is not None:
        perturbation = perturbation.to(pictures.device)
    for images, _ in batches(pictures, batch_for(pictures.shape, EVALUATION_BATCH)):
        seen = images if perturbation is None else perturb(images, perturbation)
        answers.append(classifier(seen).argmax(dim=1))
    return torch.cat(answers).cpu()


def check_class(target_class: int, classes: int) -> None:
    """Refuse a class to send pictures to that is none of the classifier's.

    Raises:
        InvalidArgumentError: not in 0..classes-1.
    """
    if not 0 <= target_class < classes:
        raise InvalidArgumentError(f"target_class is {target_class}; expected 0 to {classes - 1}.")


def fooling_rate(clean_predictions: Tensor, perturbed_predictions: Tensor) -> float:
    """Share of pictures whose predicted label changes, against the *clean prediction*."""
    return float((clean_predictions != perturbed_predictions).double().mean())
