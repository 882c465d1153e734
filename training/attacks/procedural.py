"""Black-box search among procedural textures, which the methods of that family share.

Source: Co et al. 2019, "Procedural Noise Adversarial Examples for Black-Box Attacks on Deep
Convolutional Networks": textures of a few parameters fool networks that are asked for labels only.

Every channel takes the same texture, as there. A random sign for each channel was weaker: on
ResNet-20 (CIFAR-10, linf 10/255) 60 random Perlin textures fooled 0.30 of 100 training pictures on
average in gray and 0.12 with signs, Gabor textures 0.16 and 0.10.

Departures: parameters are drawn at random only, where the source also searches them by Bayesian
optimisation.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.norms import Norm, check_ball, steepest_direction
from training.attacks.selection import best_of
from training.datasets import Pictures

TRIES: Final = 50
"""Parameter sets that are tried by default."""
Draw = Callable[[int, int, torch.Generator], Tensor]
"""Draws parameters and returns their texture `(H, W)` float32 around zero, on the CPU."""


def best_texture(
    classifier: Classifier,
    pictures: Pictures,
    draw: Draw,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    target_class: int | None = None,
    steps: int = TRIES,
    on_step: OnStep | None = None,
) -> Tensor:
    """The perturbation `(C, H, W)` that fools most of `steps` random textures.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits; only its labels are used, and it need
            not be differentiable.
        pictures: the crafting set; a bounded sample of it is asked about.
        draw: makes one texture of random parameters.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the sample and the parameters.
        target_class: keep the one that sends most pictures there; None counts changed predictions.
        steps: textures to try.
        on_step: told of every texture.

    Raises:
        InvalidArgumentError: a ball that makes no sense, no texture to try, or an unknown class.
    """
    check_ball(norm, epsilon, pictures.shape)
    if steps < 1:
        raise InvalidArgumentError(f"steps is {steps}; expected at least 1 texture to try.")
    channels, height, width = pictures.shape

    def candidates() -> Iterator[Tensor]:
        for step in range(steps):
            texture = draw(height, width, generator)
            gray = texture.expand(channels, -1, -1)
            yield on_sphere(gray, norm, epsilon).to(pictures.device)
            if on_step is not None:
                on_step(step + 1, steps)

    return best_of(
        classifier, pictures, candidates(), generator=generator, target_class=target_class
    )


def on_sphere(texture: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """A texture `(C, H, W)` brought to the ball: its signs (linf), or scaled to length (l2).

    Corners of the linf ball are what the source takes. A zero counts as positive there.
    """
    if norm == "linf":
        return torch.where(texture >= 0, epsilon, -epsilon)
    return steepest_direction(texture, norm) * epsilon


def log_uniform(low: float, high: float, *, generator: torch.Generator) -> float:
    """A number between `low` and `high` whose logarithm is uniform."""
    share = float(torch.rand((), generator=generator))
    return float(low * (high / low) ** share)
