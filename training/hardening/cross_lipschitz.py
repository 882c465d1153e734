"""Cross-Lipschitz regularisation, a comparator: a penalty on gradients of differences of logits.

Source: Hein and Andriushchenko 2017, as equation 6 of Jakubovitz and Giryes 2018:
`cross-entropy + lambda * sum_i sum_{j,k} ||d z_k / d x_i - d z_j / d x_i||^2`.

The double sum is `2 K ||P J||_F^2`, with `P` the projection that takes the mean over classes off
the logits, so that one direction per picture estimates it as it does a Jacobian's norm, where the
sum as printed takes K (K - 1) / 2 terms.

Departures: the estimate; and the mean over the mini-batch and over the K^2 pairs (the form of Hein
and Andriushchenko) instead of the sums, so that lambda means the same whatever their number.
"""

from torch import Tensor

from training.attacks.norms import Norm
from training.hardening.jacobian import PROJECTIONS, penalty_along
from training.hardening.job import Method, by
from training.hardening.per_image_adversarial import with_adversarial_share
from training.hardening.recipe import Recipe
from training.hardening.trainer import Penalty, Trainer

WEIGHT = 0.05


def cross_lipschitz_regularisation(
    trainer: Trainer,
    *,
    norm: Norm,
    epsilon: float,
    weight: float = WEIGHT,
    projections: int = PROJECTIONS,
    adversarial_share: float = 0.0,
) -> None:
    """Minimise `cross-entropy + weight * mean_i mean_{j,k} ||d (z_k - z_j) / d x_i||^2`.

    Args:
        trainer: network, pictures and recipe.
        norm: of the ball of the adversarial share.
        epsilon: its radius on [0, 1] pixels.
        weight: lambda.
        projections: random directions per picture; 0 takes every class, which is exact.
        adversarial_share: share of each mini-batch that is replaced by FGSM examples.

    Raises:
        InvalidArgumentError: `projections` is below 0, or `adversarial_share` is not in [0, 1].
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
            cross_lipschitz_penalty(penalty_along(trainer, projections)),
            lambda total, count: weight * total / count,
        )


def cross_lipschitz_penalty(squared_norms: Penalty) -> Penalty:
    """`mean_{j,k} ||d (z_k - z_j) / d x||^2` of each picture, by a penalty `||J||_F^2`."""

    def penalty(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        centred = logits - logits.mean(dim=1, keepdim=True)
        # The mean over K^2 ordered pairs of 2 K ||P J||^2.
        return squared_norms(images, centred, labels) * (2 / logits.shape[1])

    return penalty


CROSS_LIPSCHITZ = Method(
    summary="cross-Lipschitz regularisation, a comparator",
    harden=by(cross_lipschitz_regularisation),
    recipe=Recipe(optimizer="adam", epochs=10, batch_size=500, learning_rate=0.001),
    source="Adam and mini-batches of 500, Jakubovitz and Giryes, section 4",
    takes=frozenset({"weight", "projections", "adversarial_share"}),
)
