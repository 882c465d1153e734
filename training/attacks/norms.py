"""The ball of allowed perturbations: norms, projection, starts, and adding one to pictures."""

import math
from typing import Literal

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError

Norm = Literal["linf", "l2"]


def check_ball(norm: str, epsilon: float, shape: tuple[int, ...]) -> None:
    """Refuse a ball that makes no sense for pictures of `shape` `(C, H, W)` in [0, 1].

    Raises:
        InvalidArgumentError: unknown norm, or epsilon not above 0, or larger than the difference
            between a black and a white picture (1 for linf, sqrt(C*H*W) for l2).
    """
    if norm not in {"linf", "l2"}:
        raise InvalidArgumentError(f"norm is {norm!r}; expected 'linf' or 'l2'.")
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(shape))
    if not 0.0 < epsilon <= largest:
        raise InvalidArgumentError(
            f"epsilon is {epsilon:g} in {norm}; expected above 0 and at most {largest:.4g} for "
            "pixels in [0, 1]. For a value on the 0-255 scale, divide by 255."
        )


def norm_of(perturbations: Tensor, norm: Norm) -> Tensor:
    """Norms `(...)` of perturbations `(..., C, H, W)`."""
    flat = perturbations.flatten(-3)
    return flat.abs().amax(-1) if norm == "linf" else flat.norm(dim=-1)


def project(perturbations: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """The nearest perturbations `(..., C, H, W)` inside the ball of radius `epsilon`."""
    if norm == "linf":
        return perturbations.clamp(-epsilon, epsilon)
    length = norm_of(perturbations, "l2")[..., None, None, None]
    return perturbations * (epsilon / length.clamp(min=1e-12)).clamp(max=1.0)


def steepest_direction(gradients: Tensor, norm: Norm) -> Tensor:
    """The steps of unit norm along which `gradients` `(..., C, H, W)` rise fastest."""
    if norm == "linf":
        return gradients.sign()
    lengths = norm_of(gradients, "l2")[..., None, None, None]
    return gradients / lengths.clamp(min=torch.finfo(gradients.dtype).tiny)


def largest_value(gradients: Tensor) -> Tensor:
    """Largest magnitude in each of `gradients` `(..., C, H, W)`, to divide by: `(..., 1, 1, 1)`."""
    return norm_of(gradients, "linf").clamp(min=1e-12)[..., None, None, None]


def random_start(
    shape: tuple[int, int, int], norm: Norm, epsilon: float, *, generator: torch.Generator
) -> Tensor:
    """A random perturbation `shape` in the ball: uniform (linf) or of random direction (l2)."""
    if norm == "linf":
        return (torch.rand(shape, generator=generator) * 2 - 1) * epsilon
    direction = torch.randn(shape, generator=generator)
    length: Tensor = direction.norm()
    return direction / length * epsilon


def perturb(images: Tensor, perturbation: Tensor) -> Tensor:
    """Pictures under a perturbation, kept in [0, 1]; shapes that broadcast.

    `(B, C, H, W)` and `(C, H, W)` give one perturbed batch, `(B, C, H, W)` and `(P, 1, C, H, W)`
    one batch per perturbation; the perturbation is not copied for it.
    """
    return (images + perturbation).clamp(0.0, 1.0)
