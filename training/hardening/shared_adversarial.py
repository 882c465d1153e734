"""Shared adversarial training.

Source: Mummadi, Brox, Metzen 2019, "Defending Against Universal Perturbations With Shared
Adversarial Training", section 4: a mini-batch of d pictures is split into d / s heaps of sharedness
s; PGD finds one perturbation for each heap by the mean thresholded loss; trained is on
`sigma * adversarial loss + (1 - sigma) * clean loss`. With s = 1 it is adversarial training.

Departures: clean and perturbed pictures go through the network in one pass, so that they share
batch statistics; the inner attack looks at the network as deployed; the strength of the label
smoothing, which the paper does not state, is 0.1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import Norm
from training.hardening.heaps import LOSS_THRESHOLD, check_heaps, heap_perturbations, under_heaps
from training.hardening.job import Method, MethodOptions, by
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

SHAREDNESS = 64
SIGMA = 0.5
ATTACK_STEPS = 4
STEP_SIZE = 0.5
"""Of the inner attack, in epsilons; section 6.1."""
LABEL_SMOOTHING = 0.1


def shared_adversarial_training(
    trainer: Trainer,
    *,
    norm: Norm,
    epsilon: float,
    sharedness: int = SHAREDNESS,
    sigma: float = SIGMA,
    attack_steps: int = ATTACK_STEPS,
    loss_threshold: float = LOSS_THRESHOLD,
    label_smoothing: float = LABEL_SMOOTHING,
) -> None:
    """Minimise `sigma * loss under heap perturbations + (1 - sigma) * clean loss`.

    Args:
        trainer: a trained network, pictures and recipe.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        sharedness: pictures that share one perturbation, s; a divisor of the mini-batch.
        sigma: weight of the adversarial part, in [0, 1].
        attack_steps: K of the inner attack.
        loss_threshold: kappa; pictures beyond it no longer pull at the perturbation.
        label_smoothing: of both losses and of the inner attack.

    Raises:
        InvalidArgumentError: `sigma` or `sharedness` is out of range.
    """
    check_sigma(sigma)

    def thresholded(perturbed: Tensor, labels: Tensor) -> Tensor:
        logits = trainer.target(perturbed)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        return losses.clamp(max=loss_threshold)

    for images, labels in trainer.minibatches():
        with trainer.as_deployed():
            perturbations = heap_perturbations(
                thresholded,
                images,
                labels,
                sharedness=sharedness,
                norm=norm,
                epsilon=epsilon,
                steps=attack_steps,
                step_size=STEP_SIZE * epsilon,
                generator=trainer.generator("inner attack"),
            )
        both = torch.cat([under_heaps(images, perturbations), images])
        adversarial, clean = (
            F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            for logits in trainer.logits(both).chunk(2)
        )
        trainer.descend(sigma * adversarial + (1 - sigma) * clean)


def check_sigma(sigma: float) -> None:
    """Refuse a weight of the adversarial part that is no share.

    Raises:
        InvalidArgumentError: `sigma` is not in [0, 1].
    """
    if not 0 <= sigma <= 1:
        raise InvalidArgumentError(f"sigma is {sigma}; expected between 0 and 1.")


def _check(options: MethodOptions, pictures: int) -> None:
    check_heaps(pictures, SHAREDNESS if options.sharedness is None else options.sharedness)
    check_sigma(SIGMA if options.sigma is None else options.sigma)


SHARED_ADVERSARIAL = Method(
    summary="shared adversarial training",
    harden=by(shared_adversarial_training),
    recipe=Recipe(epochs=65, batch_size=128, learning_rate=0.0025, drops=(50 / 65,)),
    source="section 6.1 of its paper: 65 epochs, batch 128, momentum 0.9, 0.0025, a tenth after 50",
    takes=frozenset({"sharedness", "sigma", "attack_steps"}),
    check=_check,
)
