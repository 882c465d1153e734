"""Perturbations of a mini-batch, each shared by a heap of pictures: the inner attack of training.

Source: Mummadi, Brox, Metzen 2019, "Defending Against Universal Perturbations With Shared
Adversarial Training", sections 3.2, 4.2 and 4.3. Heaps of one picture give projected gradient
descent as in adversarial training (Madry et al. 2018).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import Norm, perturb, project, random_start, steepest_direction

LOSS_THRESHOLD = -math.log(0.2)
"""kappa of section 4.3: an adversary gains nothing by confidence in the right class below 0.2."""


def heap_perturbations(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    sharedness: int,
    norm: Norm,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """One perturbation for each heap of `sharedness` consecutive pictures, by K steps of PGD.

    Args:
        loss_of: maps perturbed images `(B, C, H, W)` and labels to the loss of each, `(B,)`, to
            ascend.
        images: `(B, C, H, W)` in [0, 1]; B is a multiple of the sharedness.
        labels: `(B,)`.
        sharedness: pictures per heap, s.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        steps: K.
        step_size: alpha, on [0, 1] pixels.
        generator: CPU generator of the starts.

    Returns:
        `(B / s, C, H, W)` inside the ball, on the device of `images`.

    Raises:
        InvalidArgumentError: the pictures cannot be parted into such heaps, or no step is asked
            for.
    """
    check_heaps(len(images), sharedness)
    check_steps(steps)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    starts = [
        random_start(shape, norm, epsilon, generator=generator)
        for _ in range(len(images) // sharedness)
    ]
    perturbations = torch.stack(starts).to(images.device)
    for _ in range(steps):
        perturbations.requires_grad_()
        # Heaps do not touch each other, so that the gradient of the sum is that of each mean.
        loss = loss_of(under_heaps(images, perturbations), labels).sum()
        gradient = torch.autograd.grad(loss, perturbations)[0]
        moved = perturbations.detach() + step_size * steepest_direction(gradient, norm)
        perturbations = project(moved, norm, epsilon)
    return perturbations


def under_heaps(images: Tensor, perturbations: Tensor) -> Tensor:
    """`images` `(B, C, H, W)`, each heap under its own of the perturbations `(B / s, C, H, W)`."""
    heaps = images.reshape(len(perturbations), -1, *images.shape[1:])
    return perturb(heaps, perturbations[:, None]).flatten(0, 1)


def check_steps(steps: int) -> None:
    """Refuse an inner attack of no step.

    Raises:
        InvalidArgumentError: `steps` is below 1.
    """
    if steps < 1:
        raise InvalidArgumentError(f"attack_steps is {steps}; expected 1 or more.")


def check_heaps(pictures: int, sharedness: int) -> None:
    """Refuse heaps that do not part a mini-batch.

    Raises:
        InvalidArgumentError: the sharedness is below 1, or does not divide the mini-batch.
    """
    if sharedness < 1 or pictures % sharedness:
        raise InvalidArgumentError(
            f"sharedness is {sharedness}; expected a divisor of the mini-batch of {pictures} "
            "pictures (of each process)."
        )
