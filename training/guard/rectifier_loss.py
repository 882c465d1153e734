"""What a rectifier's training minimises.

Source: PRN paper, equation 2: cross-entropy between the joint network's prediction on clean or
perturbed pictures and the *target's own label on the clean picture*.

Departures, all with weight 0 unless a recipe says otherwise: the divergence from the target's clean
logits, which tells more than its label; the squared distance of rectified pictures from the clean
ones, so that what is removed is the perturbation and nothing else; the loss of a detector that
reads what is removed. In bfloat16 the target's own label is that of its bfloat16 answer, and the
`paper` architecture, whose output is the picture itself, is trained on pictures rounded to 1/256 of
each value.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.target import Target
from training.guard.joint_detector import JointDetector, detection_loss
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch
from training.processes import Processes


@final
@dataclass(frozen=True, kw_only=True)
class RectifierLoss:
    """The loss of a mini-batch and what it was made of, differentiable all of it."""

    total: Tensor
    """The weighted sum of all terms, each a mean over the pictures, `()` float32."""
    labels: Tensor
    """The target's own of the clean pictures, `(B,)` int64."""
    logits: Tensor
    """Of the rectified pictures, `(B, K)` float32."""
    scores: Tensor | None
    """Of the joint detector, `(B,)` float32."""


def rectifier_loss(
    rectifier: nn.Module,
    target: Target,
    batch: RectifierBatch,
    *,
    recipe: Recipe,
    joint: JointDetector | None = None,
    together: Processes | None = None,
) -> RectifierLoss:
    """The loss of a mini-batch, differentiable by the rectifier's weights and `seen`.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same.
        target: the frozen classifier.
        batch: clean pictures, and what is seen of them.
        recipe: precision, and weights of the terms.
        joint: the detector that is trained too; its running figures follow the mini-batch.
        together: the processes whose figures they are; None is this one alone.
    """
    with torch.autocast(
        batch.seen.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"
    ):
        with torch.no_grad():
            clean_logits = target(batch.clean).float()
        rectified = rectifier(batch.seen)
        logits = target(rectified)
    logits, labels = logits.float(), clean_logits.argmax(dim=1)
    loss = F.cross_entropy(logits, labels)
    if recipe.clean_divergence:
        loss = loss + recipe.clean_divergence * divergence(logits, clean_logits)
    if recipe.pixels:
        loss = loss + recipe.pixels * squared_change(rectified.float(), batch.clean).mean()
    scores = None
    if joint is not None:
        scores = _scored(joint, batch, rectified.float(), together or Processes())
        loss = loss + recipe.detection * detection_loss(scores, batch.is_perturbed)
    return RectifierLoss(total=loss, labels=labels, logits=logits, scores=scores)


def _scored(
    joint: JointDetector, batch: RectifierBatch, rectified: Tensor, together: Processes
) -> Tensor:
    """Scores `(B,)` after the running figures of the detector have followed the mini-batch."""
    features = joint.features(batch.seen - rectified)
    joint.follow(features, together)
    scores = joint.score(features)
    joint.watch(scores, batch.is_perturbed, together)
    return scores


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
