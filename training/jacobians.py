"""Input-output Jacobians of logits: exact, and their Frobenius norms by random projections.

Sources: Hoffman, Roberts, Yaida 2019, "Robust Learning with Jacobian Regularization" (random
projections), as used by Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal
Adversarial Perturbations", section 4.1.

Everything here takes a network whose answer to a picture depends on that picture alone, as it does
in evaluation mode: gradients of sums over a batch are then those of the single pictures.
"""

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError


def exact_jacobians(images: Tensor, logits: Tensor) -> Tensor:
    """`d logits_k / d image` of every picture, `(B, K, C, H, W)`, by one backward pass per class.

    Args:
        images: `(B, C, H, W)` that require gradients.
        logits: `(B, K)`, computed from them.
    """
    return torch.stack(
        [
            torch.autograd.grad(logits[:, label].sum(), images, retain_graph=True)[0]
            for label in range(logits.shape[1])
        ],
        dim=1,
    )


def random_directions(
    pictures: int, classes: int, number: int, *, generator: torch.Generator
) -> Tensor:
    """Unit vectors in logit space, `number` for each picture, `(number, pictures, classes)`.

    Raises:
        InvalidArgumentError: `number` is below 1.
    """
    if number < 1:
        raise InvalidArgumentError(f"number of projections is {number}; expected 1 or more.")
    drawn = torch.randn(number, pictures, classes, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=2)


def basis_directions(pictures: int, classes: int) -> Tensor:
    """The axes of logit space for each picture, `(classes, pictures, classes)`.

    With them `squared_norms` is exact, at the cost of `classes` backward passes.
    """
    return torch.eye(classes)[:, None].expand(classes, pictures, classes)


def squared_norms(images: Tensor, logits: Tensor, directions: Tensor) -> Tensor:
    """`||J(x_i)||_F^2` of every picture, `(B,)`, estimated along directions; differentiable.

    `K / n * sum_j ||v_j^T J||^2` for unit vectors `v_j` is unbiased when they are drawn uniformly,
    and exact when they are an orthonormal basis.

    Args:
        images: `(B, C, H, W)` that require gradients.
        logits: `(B, K)`, computed from them.
        directions: unit vectors `(n, B, K)`.
    """
    total = logits.new_zeros(len(images))
    for direction in directions.to(logits):
        gradient = torch.autograd.grad(logits, images, direction, create_graph=True)[0]
        total = total + gradient.square().flatten(1).sum(dim=1)
    return total * (logits.shape[1] / len(directions))
