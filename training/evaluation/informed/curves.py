"""What shows that an attack is not merely weak: its strength over its steps, and over epsilon.

Source: Carlini et al. 2019, "On Evaluating Adversarial Robustness", section 4: more iterations must
not help any more, and a bound that is large enough must fool everything.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.norms import Norm, norm_of
from training.datasets import Pictures
from training.datasets.fitting import Shape
from training.evaluation.metrics import proportion
from training.evaluation.outcomes import answers
from training.evaluation.protocols import under


def scaled_epsilon(norm: Norm, epsilon: float, shape: Shape, scale: float) -> float:
    """`scale` times `epsilon`, at most what black and white pictures of `shape` differ by."""
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(shape))
    return min(epsilon * scale, largest)


def fooling_against_epsilon(
    guarded: GuardedClassifier,
    pictures: Pictures,
    unseen: Tensor | None,
    informed: Callable[[float], Tensor | None],
    *,
    norm: Norm,
    epsilon: float,
    scales: Sequence[float],
) -> list[dict[str, Any]]:
    """A row per scale of epsilon: fooling rates of perturbations scaled, and of ones crafted anew.

    Args:
        guarded: the guard.
        pictures: to measure on.
        unseen: perturbations `(P, C, H, W)` to scale, their rates averaged; None has none.
        informed: crafts one `(C, H, W)` for a scale, or answers None for a scale left out.
        norm: of the ball.
        epsilon: its radius at scale 1.
        scales: in rising order.
    """
    clean = answers(guarded, pictures)
    rows = []
    for scale in scales:
        radius = scaled_epsilon(norm, epsilon, pictures.shape, scale)
        row: dict[str, Any] = {"epsilon": radius}
        if unseen is not None:
            scaled = unseen / norm_of(unseen, norm)[:, None, None, None] * radius
            figures = under(clean, [answers(guarded, pictures, one) for one in scaled])
            row["undefended"] = figures["undefended_fooling_rate"]
            row["guarded"] = figures["guarded_fooling_rate"]
        crafted = informed(scale)
        if crafted is not None:
            answered = answers(guarded, pictures, crafted).guarded
            row["adaptive"] = proportion((answered != clean.bare).astype(np.float64))
        rows.append(row)
    return rows


def budgets(steps: int) -> tuple[int, ...]:
    """An eighth, a quarter, a half of `steps`, and all of them; each number once, at least 1."""
    return tuple(sorted({max(1, steps // part) for part in (8, 4, 2, 1)}))
