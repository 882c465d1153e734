"""What a rectifier's training minimises.

Source: PRN paper, equation 2: cross-entropy between the joint network's prediction on clean or
perturbed pictures and the *target's own label on the clean picture*.

Departures, both with weight 0 unless a recipe says otherwise: the divergence from the target's
clean logits, which tells more than its label; the squared change of clean pictures. In bfloat16 the
target's own label is that of its bfloat16 answer, and the `paper` architecture, whose output is the
picture itself, is trained on pictures rounded to 1/256 of each value.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.target import Target
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch


def rectifier_loss(
    rectifier: nn.Module, target: Target, batch: RectifierBatch, *, recipe: Recipe
) -> Tensor:
    """The loss `()` float32 of a mini-batch, differentiable by the rectifier's weights and `seen`.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same.
        target: the frozen classifier.
        batch: clean pictures, and what is seen of them.
        recipe: precision, and weights of the terms.
    """
    with torch.autocast(
        batch.seen.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"
    ):
        with torch.no_grad():
            clean_logits = target(batch.clean).float()
        rectified = rectifier(batch.seen)
        logits = target(rectified)
    logits = logits.float()
    loss = F.cross_entropy(logits, clean_logits.argmax(dim=1))
    if recipe.clean_divergence:
        loss = loss + recipe.clean_divergence * divergence(logits, clean_logits)
    if recipe.clean_pixels:
        changes = squared_change(rectified.float(), batch.clean)
        # Over the whole mini-batch, so that a mean over processes is that of one process.
        loss = loss + recipe.clean_pixels * (changes * ~batch.is_perturbed).mean()
    return loss


def divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence `()` of predictions from the clean ones, both `(B, K)`."""
    return F.kl_div(
        F.log_softmax(logits, dim=1),
        F.log_softmax(clean_logits, dim=1),
        log_target=True,
        reduction="batchmean",
    )


def squared_change(rectified: Tensor, images: Tensor) -> Tensor:
    """Mean squared difference of each two pictures `(B, C, H, W)`: `(B,)`."""
    changes: Tensor = (rectified - images).square().mean(dim=(1, 2, 3))
    return changes
