"""What a perturbation that is held beside the training is after, on the mini-batch of the training.

Ours: the forward pass of the training serves the perturbation too. One that goes through the
rectifier ascends the clipped cross-entropy of the rectified pictures. One that evades ascends that
of the bare target, for which the target runs once more, less a softplus of the scores' excess over
the threshold: the loss of `evasion` at weight 1, where the rounds take `guard_attack.EVASION`.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.nn.target import Target
from training.attacks.losses import clipped_cross_entropy
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Precision
from training.guard.rectifier_batches import RectifierBatch
from training.guard.rectifier_loss import RectifierLoss
from training.guard.surrogates import in_precision


@final
@dataclass(frozen=True, kw_only=True)
class Aim:
    """A perturbation that part of a mini-batch is under, and what it is after."""

    perturbation: Tensor
    """`(C, H, W)`, what `seen` was made of; its gradient is wanted as `grad`."""
    evades: bool
    """It is to fool the bare target below the threshold; else, to get through the rectifier."""

    def objective(
        self,
        loss: RectifierLoss,
        batch: RectifierBatch,
        *,
        target: Target,
        joint: JointDetector | None,
        precision: Precision,
    ) -> Tensor:
        """The sum `()` over the aimed pictures of what is ascended.

        Args:
            loss: of the mini-batch, whose graph is used.
            batch: of this process.
            target: the frozen classifier.
            joint: whose threshold is to be stayed below; without one, nothing evades.
            precision: that the target computes in.
        """
        aimed = batch.is_aimed
        if not bool(aimed.any()):
            # Of several processes some have none, and not every classifier takes no pictures.
            return 0.0 * loss.total
        if not self.evades or joint is None or loss.scores is None:
            return clipped_cross_entropy(loss.logits[aimed], loss.labels[aimed]).sum()
        bare = in_precision(target, precision)(batch.seen[aimed])
        fooled = clipped_cross_entropy(bare.float(), loss.labels[aimed])
        return (fooled - F.softplus(loss.scores[aimed] - joint.threshold)).sum()

    def differentiate(self, objective: Tensor) -> None:
        """Set the perturbation's gradient; the graph of `objective` stays."""
        (self.perturbation.grad,) = torch.autograd.grad(
            objective, self.perturbation, retain_graph=True
        )
