"""DeepFool: the smallest step that carries each picture over its nearest boundary, batched.

Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool", Algorithm 2, and section 3.3 for norms other
than l2; used by the iterative universal perturbation. Linearise the classifier, step to the nearest
of the linearised boundaries of the most likely classes, repeat until the label changes, overshoot a
little.

Departure: a margin may be asked for, by which another class has to lead; the source asks for none.
"""

import torch
from torch import Tensor

from training.attacks.fooling import Classifier
from training.attacks.losses import lead_over
from training.attacks.norms import Norm, steepest_direction

OVERSHOOT = 0.02
NUDGE = 1e-4
"""Added to the logit gap, so that a picture on the boundary itself still moves."""
NEAREST_CLASSES = 10
_TINY = 1e-12


def deepfool_steps(
    classifier: Classifier,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    norm: Norm = "l2",
    margin: float = 0.0,
    classes: int = NEAREST_CLASSES,
    overshoot: float = OVERSHOOT,
    max_iterations: int = 20,
) -> Tensor:
    """Minimal steps `(B, C, H, W)` that change the label of each of `images`.

    Args:
        classifier: maps `(B, C, H, W)` to logits.
        images: `(B, C, H, W)` float32; not clipped to [0, 1] on the way, as in the source.
        labels: what to get away from, `(B,)` int64; None is what the classifier answers.
        norm: what is minimal.
        margin: another class has to lead by so much, in logits.
        classes: boundaries to this many most likely classes, that of the label among them, are
            looked at.
        overshoot: the step is scaled by `1 + overshoot`.
        max_iterations: pictures that have not crossed by then keep the step that they have.
    """
    with torch.no_grad():
        logits = classifier(images)
    home = logits.argmax(dim=1) if labels is None else labels.to(images.device)
    others = logits.scatter(1, home[:, None], -torch.inf)
    others = others.topk(min(classes, logits.shape[1]) - 1, dim=1).indices
    steps = torch.zeros_like(images)
    active = torch.arange(len(images), device=images.device)
    for _ in range(max_iterations):
        moved = images[active] + (1 + overshoot) * steps[active]
        step, crossed = _linearised_step(
            classifier, moved, home[active], others[active], norm=norm, margin=margin
        )
        steps[active[~crossed]] += step[~crossed]
        active = active[~crossed]
        if not len(active):
            break
    return (1 + overshoot) * steps


def _linearised_step(
    classifier: Classifier,
    images: Tensor,
    home: Tensor,
    others: Tensor,
    *,
    norm: Norm,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """Step to the nearest linearised boundary, and which images are across already."""
    leaf = images.detach().requires_grad_()
    logits = classifier(leaf)
    rows = torch.arange(len(images), device=images.device)
    own = logits[rows, home]
    gaps, slopes = [], []
    for column in range(others.shape[1]):
        gap = logits[rows, others[:, column]] - own
        last = column == others.shape[1] - 1
        (slope,) = torch.autograd.grad(gap.sum(), leaf, retain_graph=not last)
        gaps.append(gap.detach())
        slopes.append(slope)
    gap, slope = torch.stack(gaps, dim=1), torch.stack(slopes, dim=1)
    # A step r is shortest where w . r = |w|_q |r|_p with 1/p + 1/q = 1.
    steepness = slope.flatten(2).norm(p=1 if norm == "linf" else 2, dim=2).clamp(min=_TINY)
    missing = (margin - gap).abs()
    nearest = (missing / steepness).argmin(dim=1)
    length = (missing[rows, nearest] + NUDGE) / steepness[rows, nearest]
    step = length[:, None, None, None] * steepest_direction(slope[rows, nearest], norm)
    return step, lead_over(logits.detach(), home) > margin
