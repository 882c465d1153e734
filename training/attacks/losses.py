"""Objectives that universal attacks ascend, per picture."""

from torch import Tensor
from torch.nn import functional as F

LOSS_CLIP = 9.0
"""`beta` of the UAT paper, section 3: no single picture may dominate the mean."""


def clipped_cross_entropy(logits: Tensor, labels: Tensor, *, clip: float = LOSS_CLIP) -> Tensor:
    """`min(cross-entropy, clip)`, `(B,)`; UAT paper, section 3, equation 3.

    Args:
        logits: `(B, K)` float32.
        labels: `(B,)` int64, the labels to get away from.
        clip: pictures beyond this loss no longer pull.
    """
    return F.cross_entropy(logits, labels, reduction="none").clamp(max=clip)


def closeness_to_class(logits: Tensor, target_class: int) -> Tensor:
    """Minus the cross-entropy to `target_class`, `(B,)`: what a targeted attack ascends."""
    wanted = logits.new_full((len(logits),), target_class).long()
    return -F.cross_entropy(logits, wanted, reduction="none")


def cosine_excess(perturbation: Tensor, others: Tensor, *, allowed: float) -> Tensor:
    """How far |cosine| to each of `others` goes beyond `allowed`, summed; a scalar.

    Args:
        perturbation: `(C, H, W)`.
        others: unit-norm directions `(M, C*H*W)`.
        allowed: |cosine| up to here costs nothing.
    """
    flat = perturbation.flatten()
    cosines: Tensor = others @ flat / flat.norm().clamp(min=1e-12)
    return (cosines.abs() - allowed).clamp(min=0).sum()
