"""Baselines: an input transform in front of the bare target, in place of a guard.

They need no training and know no perturbation. A guard that does not beat them on the same
pictures and perturbations is not worth its cost.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.attacks.fooling import Classifier
from training.datasets import Pictures, batch_for, batches
from training.evaluation.filters import (
    bilateral_filter,
    gaussian_blur,
    jpeg,
    median_filter,
    reduce_bit_depth,
)
from training.evaluation.metrics import proportion
from training.evaluation.outcomes import BATCH, as_delivered

Transform = Callable[[Tensor], Tensor]
"""Maps `(B, C, H, W)` float32 in [0, 1] to pictures of the same shape and range."""

BASELINES: Final[dict[str, Transform]] = {
    "no defense": lambda images: images,
    "JPEG 75": lambda images: jpeg(images, quality=75),
    "JPEG 50": lambda images: jpeg(images, quality=50),
    "bit depth 3": lambda images: reduce_bit_depth(images, bits=3),
    "median 3x3": median_filter,
    "Gaussian, sigma 1": lambda images: gaussian_blur(images, sigma=1.0),
    "bilateral 5x5": bilateral_filter,
}


def baseline_figures(
    classifier: Classifier, name: str, pictures: Pictures, stacks: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Accuracy behind one of `BASELINES`, clean and under each stack `(P, C, H, W)` of `stacks`.

    Returns:
        `clean_accuracy`, and `accuracy` by the stacks' names: means over the perturbations.
    """
    true = pictures.labels.numpy()

    def right(perturbation: Tensor | None) -> NDArray[np.bool_]:
        found = transformed_labels(classifier, BASELINES[name], pictures, perturbation)
        agree: NDArray[np.bool_] = found.numpy() == true
        return agree

    return {
        "clean_accuracy": proportion(right(None).astype(np.float64)),
        "accuracy": {
            key: proportion(np.mean([right(one) for one in stack], axis=0))
            for key, stack in stacks.items()
        },
    }


@torch.no_grad()
def transformed_labels(
    classifier: Classifier,
    transform: Transform,
    pictures: Pictures,
    perturbation: Tensor | None = None,
) -> Tensor:
    """Labels `(N,)` int64 on the CPU of pictures that pass `transform` first.

    Args:
        classifier: the bare target.
        transform: the baseline.
        pictures: N of them.
        perturbation: `(C, H, W)`, added before the pictures are delivered as 8-bit values.
    """
    found = []
    if perturbation is not None:
        perturbation = perturbation.to(pictures.device)
    for images, _ in batches(pictures, batch_for(pictures.shape, BATCH)):
        seen = as_delivered(images, perturbation)
        found.append(classifier(transform(seen)).argmax(dim=1))
    return torch.cat(found).cpu()
