"""Universal adversarial training, alternating.

Source: Shafahi et al., "Universal Adversarial Training", section 4, Algorithm 3: one universal
perturbation is kept and refined across all iterations; each descends the weights on perturbed
pictures, then ascends the perturbation with a second backward pass, then projects it.

Departures: perturbed pictures are kept in [0, 1]; the ascent looks at the network as deployed
(stored batch statistics), which saves gradients of the weights; steps of the SGD and Adam rules,
which the paper does not state, are in epsilons, and SGD's gradient is scaled to a largest value of
1, so that its steps are of one length however small the gradient has become.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import Rule as EngineRule
from training.attacks.engine import Schedule, update_rule
from training.attacks.norms import Norm, perturb
from training.hardening.job import Method, Rule, by
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

ENGINE_RULES: dict[Rule, tuple[EngineRule, float]] = {
    "fgsm": ("sign-pgd", 1.0),
    "sgd": ("sgd", 0.1),
    "adam": ("adam", 0.1),
}
"""The attack module's name of each rule, and its step in epsilons: 1 for FGSM, equation 6."""
PERTURBATION = "perturbation"


def universal_adversarial_training(
    trainer: Trainer, *, norm: Norm, epsilon: float, rule: Rule = "fgsm"
) -> None:
    """Minimise the cross-entropy under a universal perturbation that keeps ascending it.

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
        trainer.descend(F.cross_entropy(trainer.logits(perturb(images, perturbation)), labels))
        perturbation.requires_grad_()
        with trainer.as_deployed() as network:
            loss = F.cross_entropy(network(perturb(images, perturbation)), labels)
        gradient = torch.autograd.grad(loss, perturbation)[0]
        perturbation = ascended(trainer, gradient, rule=rule, norm=norm, epsilon=epsilon)


def kept_perturbation(trainer: Trainer) -> Tensor:
    """The universal perturbation `(C, H, W)` of the training: zero at first, resumed later."""
    return trainer.state.setdefault(
        PERTURBATION, torch.zeros(trainer.pictures.shape, device=trainer.device)
    )


def ascended(
    trainer: Trainer, gradient: Tensor, *, rule: Rule, norm: Norm, epsilon: float
) -> Tensor:
    """Move the kept perturbation along `gradient` `(C, H, W)` and keep where it comes to.

    Raises:
        InvalidArgumentError: an unknown rule.
    """
    if rule not in ENGINE_RULES:
        raise InvalidArgumentError(f"rule is {rule!r}; expected one of {', '.join(ENGINE_RULES)}.")
    name, step = ENGINE_RULES[rule]
    trainer.processes.average([gradient])
    update = update_rule(
        name,
        norm=norm,
        epsilon=epsilon,
        schedule=Schedule(steps=1, travel=step, decay=1.0),
        moments=trainer.state,
    )
    trainer.state[PERTURBATION] = update(
        trainer.state[PERTURBATION].detach(), gradient, trainer.step
    )
    return trainer.state[PERTURBATION]


UNIVERSAL_ADVERSARIAL = Method(
    summary="universal adversarial training, alternating",
    harden=by(universal_adversarial_training),
    recipe=Recipe(epochs=20, batch_size=128, learning_rate=0.01, drops=(0.5, 0.75)),
    source="UAT paper, section 4 (batch 128, momentum 0.9, tenfold drops after 1/2 and 3/4), from "
    "a tenth of its first rate, for a network that is trained already",
    takes=frozenset({"rule"}),
)
