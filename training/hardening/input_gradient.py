"""Input-gradient regularisation, a comparator: a penalty on the loss's gradient by the picture.

Source: Ross and Doshi-Velez 2017, as equation 5 of Jakubovitz and Giryes 2018:
`cross-entropy + lambda * sum_i ||d cross-entropy_i / d x_i||^2`.

Departure: the mean over the mini-batch instead of the sum, so that lambda means the same whatever
its size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.attacks.norms import Norm
from training.hardening.job import Method, by
from training.hardening.per_image_adversarial import with_adversarial_share
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

WEIGHT = 1.0


def input_gradient_regularisation(
    trainer: Trainer,
    *,
    norm: Norm,
    epsilon: float,
    weight: float = WEIGHT,
    adversarial_share: float = 0.0,
) -> None:
    """Minimise `cross-entropy + weight * mean ||d cross-entropy / d x||^2`.

    Args:
        trainer: network, pictures and recipe.
        norm: of the ball of the adversarial share.
        epsilon: its radius on [0, 1] pixels.
        weight: lambda.
        adversarial_share: share of each mini-batch that is replaced by FGSM examples.

    Raises:
        InvalidArgumentError: `adversarial_share` is not in [0, 1].
        DataError: the loss stops being finite.
    """
    for images, labels in trainer.minibatches():
        seen = with_adversarial_share(
            trainer, images, labels, share=adversarial_share, norm=norm, epsilon=epsilon
        )
        trainer.descend_penalised(
            seen,
            labels,
            images,
            squared_input_gradients,
            lambda total, count: weight * total / count,
        )


def squared_input_gradients(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """`||d cross-entropy_i / d x_i||^2` of every picture, `(B,)`, differentiable.

    Args:
        images: `(B, C, H, W)` that require gradients.
        logits: `(B, K)`, computed from them.
        labels: `(B,)`.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    gradient = torch.autograd.grad(loss, images, create_graph=True)[0]
    return gradient.square().flatten(1).sum(dim=1)


INPUT_GRADIENT = Method(
    summary="input-gradient regularisation, a comparator",
    harden=by(input_gradient_regularisation),
    recipe=Recipe(optimizer="adam", epochs=10, batch_size=500, learning_rate=0.001),
    source="Adam and mini-batches of 500, Jakubovitz and Giryes, section 4",
    takes=frozenset({"weight", "adversarial_share"}),
)
