"""Losses that universal attacks ascend, per picture.

Sources: `clipped_cross_entropy`, Shafahi et al., "Universal Adversarial Training", section 3;
`logit_margin`, Zhang et al. 2020, "Understanding Adversarial Examples from the Mutual Influence of
Images and Perturbations" (DF-UAP); `logit_cosine`, Zhang et al. 2021, "Data-free Universal
Adversarial Perturbation and Black-box Attack" (Cos-UAP).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "logit_margin", "logit_cosine"]

LOSS_CLIP = 9.0
"""`beta` of the UAT paper, section 3: no single picture may dominate the mean."""
MARGIN_CLIP = 10.0
"""`kappa` of DF-UAP."""


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


def cosine_excess(perturbations: Tensor, others: Tensor, *, allowed: float) -> Tensor:
    """How far |cosine| to each of `others` and to each other goes beyond `allowed`, summed.

    Args:
        perturbations: `(P, C, H, W)`.
        others: unit-norm directions `(M, C*H*W)`.
        allowed: |cosine| up to here costs nothing.

    Returns:
        One value per perturbation, `(P,)`.
    """
    flat = F.normalize(perturbations.flatten(1), dim=1)
    among = (flat @ flat.detach().T).fill_diagonal_(0.0)
    cosines = torch.cat([flat @ others.T, among], dim=1)
    return (cosines.abs() - allowed).clamp(min=0).sum(dim=1)


def lead_over(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the best other class leads over `labels` `(B,)`, in logits, `(B,)`."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def logit_margin(logits: Tensor, labels: Tensor, *, clip: float = MARGIN_CLIP) -> Tensor:
    """`min(max_{j != label} z_j - z_label, clip)`, `(B,)`; the loss of DF-UAP.

    Args:
        logits: `(B, K)` float32.
        labels: `(B,)` int64, the labels to get away from.
        clip: pictures beyond this margin no longer pull.
    """
    return lead_over(logits, labels).clamp(max=clip)


def margin_of_class(logits: Tensor, target_class: int, *, clip: float = MARGIN_CLIP) -> Tensor:
    """`min(z_target - max_{j != target} z_j, clip)`, `(B,)`: the targeted form of DF-UAP."""
    wanted = torch.full((len(logits),), target_class, device=logits.device)
    return (-lead_over(logits, wanted)).clamp(max=clip)


def logit_cosine(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """Minus the cosine between perturbed and clean logits, `(B,)`; the loss of Cos-UAP."""
    return -F.cosine_similarity(logits, clean_logits, dim=1)
