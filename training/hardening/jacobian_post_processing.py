"""Jacobian regularisation as a post-processing phase of a trained network.

Source: Jakubovitz and Giryes 2018, "Improving DNN Robustness to Adversarial Attacks using Jacobian
Regularization", equation 4: `cross-entropy + lambda * sqrt(sum_i ||J(x_i)||_F^2)`, the sum over a
mini-batch.

Both terms are divided by the number of pictures, because equation 4 sums the cross-entropy, too,
over the mini-batch.

Departures: the norm is estimated along one random direction per picture instead of all classes;
over a mini-batch of 500 the estimate of the sum varies by some per cent. The Jacobian is that of
the network as deployed, without the dropout of training, and by pixels in [0, 1].
"""

from training.attacks.norms import Norm
from training.hardening.jacobian import PROJECTIONS, penalty_along
from training.hardening.job import Method, by
from training.hardening.per_image_adversarial import with_adversarial_share
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

WEIGHT = 0.1
"""lambda on MNIST; 0.5 on CIFAR-10."""
SMALLEST = 1e-12
"""A sum below this has no root to descend: its derivative is infinite at zero."""


def jacobian_post_processing(
    trainer: Trainer,
    *,
    norm: Norm,
    epsilon: float,
    weight: float = WEIGHT,
    projections: int = PROJECTIONS,
    adversarial_share: float = 0.0,
) -> None:
    """Minimise `(sum of cross-entropies + weight * sqrt(sum ||J||_F^2)) / pictures`.

    Args:
        trainer: a trained network, pictures and recipe.
        norm: of the ball of the adversarial share.
        epsilon: its radius on [0, 1] pixels.
        weight: lambda of equation 4.
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
            penalty_along(trainer, projections),
            lambda total, count: weight * total.clamp(min=SMALLEST).sqrt() / count,
        )


JACOBIAN_POST_PROCESSING = Method(
    summary="Jacobian regularisation as post-processing",
    harden=by(jacobian_post_processing),
    recipe=Recipe(optimizer="adam", epochs=10, batch_size=500, learning_rate=0.001),
    source="Adam and mini-batches of 500, Jakubovitz and Giryes, section 4",
    takes=frozenset({"weight", "projections", "adversarial_share"}),
)
