"""Universal adversarial training at low cost: both gradients from one backward pass.

Source: Shafahi et al., "Universal Adversarial Training", section 4, Algorithm 4.

Departures: as in `universal_adversarial`, but here the ascent sees the network in training mode,
because it shares the pass.
"""

from torch.nn import functional as F

from training.attacks.norms import Norm, perturb
from training.hardening.job import Method, Rule, by
from training.hardening.trainer import Trainer
from training.hardening.universal_adversarial import (
    UNIVERSAL_ADVERSARIAL,
    ascended,
    kept_perturbation,
)


def low_cost_universal_adversarial_training(
    trainer: Trainer, *, norm: Norm, epsilon: float, rule: Rule = "fgsm"
) -> None:
    """Minimise the cross-entropy under a universal perturbation that ascends it meanwhile.

    Args:
        trainer: network, pictures and recipe.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        rule: how the perturbation ascends: FGSM (equation 6), SGD (equation 7) or Adam.

    Raises:
        InvalidArgumentError: an unknown rule.
        DataError: the loss stops being finite.
    """
    perturbation = kept_perturbation(trainer)
    for images, labels in trainer.minibatches():
        perturbation = perturbation.detach().requires_grad_()
        trainer.descend(F.cross_entropy(trainer.logits(perturb(images, perturbation)), labels))
        if perturbation.grad is not None:
            perturbation = ascended(
                trainer, perturbation.grad, rule=rule, norm=norm, epsilon=epsilon
            )


LOW_COST_UNIVERSAL_ADVERSARIAL = Method(
    summary="universal adversarial training, one backward pass for both",
    harden=by(low_cost_universal_adversarial_training),
    recipe=UNIVERSAL_ADVERSARIAL.recipe,
    source=UNIVERSAL_ADVERSARIAL.source,
    takes=frozenset({"rule"}),
)
