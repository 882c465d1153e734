"""Jacobian regularisation: a penalty on how fast logits change with the picture.

Source: Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial
Perturbations", equation 11: `cross-entropy + lambda / 2 * mean_i ||J(x_i)||_F^2`, estimated along
one random direction per picture (Hoffman, Roberts, Yaida 2019).

Departures: the Jacobian is that of the network as deployed (stored batch statistics, no dropout),
which the paper's LeNet does not tell apart, and by pixels in [0, 1], where the paper does not say
by what scale of the input; part of a mini-batch may be adversarial for the cross-entropy (the
combination of Jakubovitz and Giryes), never for the penalty.
"""

from torch import Tensor

from training.attacks.norms import Norm
from training.hardening.job import Method, by
from training.hardening.per_image_adversarial import with_adversarial_share
from training.hardening.recipe import Recipe
from training.hardening.trainer import Penalty, Trainer
from training.jacobians import basis_directions, random_directions, squared_norms

WEIGHT = 0.05
"""lambda for LeNet on MNIST and Fashion-MNIST."""
PROJECTIONS = 1


def jacobian_regularisation(
    trainer: Trainer,
    *,
    norm: Norm,
    epsilon: float,
    weight: float = WEIGHT,
    projections: int = PROJECTIONS,
    adversarial_share: float = 0.0,
) -> None:
    """Minimise `cross-entropy + weight / 2 * mean ||J||_F^2`.

    Args:
        trainer: network, pictures and recipe.
        norm: of the ball of the adversarial share.
        epsilon: its radius on [0, 1] pixels.
        weight: lambda of equation 11.
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
            lambda total, count: weight / 2 * total / count,
        )


def penalty_along(trainer: Trainer, projections: int) -> Penalty:
    """`||J||_F^2` of each picture along `projections` random directions; 0 takes every class."""
    generator = trainer.generator("projections")

    def penalty(images: Tensor, logits: Tensor, _: Tensor) -> Tensor:
        count, classes = logits.shape
        if projections == 0:
            directions = basis_directions(count, classes)
        else:
            directions = random_directions(count, classes, projections, generator=generator)
        return squared_norms(images, logits, directions)

    return penalty


JACOBIAN = Method(
    summary="Jacobian regularisation, joint loss",
    harden=by(jacobian_regularisation),
    recipe=Recipe(
        optimizer="adam",
        epochs=20,
        batch_size=100,
        learning_rate=0.001,
        drops=(0.5, 0.75),
        largest_gradient=2.0,
    ),
    source="Adam as Jakubovitz and Giryes, section 4, because the JR paper states no rates; "
    "gradients clipped, because squared norms are steep at first",
    takes=frozenset({"weight", "projections", "adversarial_share"}),
)
