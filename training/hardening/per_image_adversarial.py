"""Per-image adversarial training, a comparator: FGSM or PGD examples instead of clean pictures.

Sources: Goodfellow, Shlens, Szegedy 2015 (FGSM; equation 16 of Jakubovitz and Giryes 2018); Madry
et al. 2018 (PGD), a row of the UAT paper's table 1, with 7 steps.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.target import Target
from training.attacks.norms import Norm, perturb, steepest_direction
from training.hardening.heaps import check_steps, heap_perturbations
from training.hardening.job import Method, by
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

Attack = Literal["fgsm", "pgd"]
PGD_STEPS = 7
PGD_TRAVEL = 2.5
"""All steps together, in epsilons, as Madry et al. take them: any place in the ball is in reach."""


def adversarial_training(
    trainer: Trainer,
    *,
    attack: Attack,
    norm: Norm,
    epsilon: float,
    attack_steps: int = PGD_STEPS,
    adversarial_share: float = 1.0,
) -> None:
    """Minimise the cross-entropy on adversarial examples of the network as it is.

    Args:
        trainer: network, pictures and recipe.
        attack: one step of length epsilon, or projected gradient descent.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        attack_steps: of PGD.
        adversarial_share: share of each mini-batch that is replaced.

    Raises:
        InvalidArgumentError: no step is asked for, or a share outside [0, 1].
    """
    check_steps(attack_steps)
    for images, labels in trainer.minibatches():
        seen = with_adversarial_share(
            trainer,
            images,
            labels,
            share=adversarial_share,
            norm=norm,
            epsilon=epsilon,
            attack=attack,
            attack_steps=attack_steps,
        )
        trainer.descend(F.cross_entropy(trainer.logits(seen), labels))


def with_adversarial_share(
    trainer: Trainer,
    images: Tensor,
    labels: Tensor,
    *,
    share: float,
    norm: Norm,
    epsilon: float,
    attack: Attack = "fgsm",
    attack_steps: int = PGD_STEPS,
) -> Tensor:
    """`images` themselves where `share` is 0; else the first of them become adversarial examples.

    Args:
        trainer: whose network, as deployed, they are examples for.
        images: `(B, C, H, W)` in [0, 1].
        labels: `(B,)`.
        share: of the pictures that are replaced.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        attack: one step of length epsilon, or projected gradient descent.
        attack_steps: of PGD.

    Returns:
        `(B, C, H, W)` in [0, 1].

    Raises:
        InvalidArgumentError: `share` is not in [0, 1].
    """
    count = _share_of(len(images), share)
    if count == 0:
        return images
    chosen = images[:count]
    with trainer.as_deployed() as network:
        losses = partial(_losses, network)
        if attack == "fgsm":
            watched = chosen.detach().requires_grad_()
            gradient = torch.autograd.grad(losses(watched, labels[:count]).sum(), watched)[0]
            perturbations = epsilon * steepest_direction(gradient, norm)
        else:
            perturbations = heap_perturbations(
                losses,
                chosen,
                labels[:count],
                sharedness=1,
                norm=norm,
                epsilon=epsilon,
                steps=attack_steps,
                step_size=PGD_TRAVEL * epsilon / attack_steps,
                generator=trainer.generator("inner attack"),
            )
    return torch.cat([perturb(chosen, perturbations), images[count:]])


def _losses(network: Target, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels, reduction="none")


def _share_of(pictures: int, share: float) -> int:
    if not 0 <= share <= 1:
        raise InvalidArgumentError(f"adversarial_share is {share}; expected between 0 and 1.")
    return round(share * pictures)


def _by(attack: Attack, summary: str) -> Method:
    return Method(
        summary=summary,
        harden=by(partial(adversarial_training, attack=attack)),
        recipe=Recipe(epochs=20, batch_size=128, learning_rate=0.01, drops=(0.5, 0.75)),
        source="as the UAT paper, section 4, from a tenth of its first rate",
        takes=frozenset({"adversarial_share"})
        if attack == "fgsm"
        else frozenset({"adversarial_share", "attack_steps"}),
    )


FGSM = _by("fgsm", "per-image adversarial training by FGSM, a comparator")
PGD = _by("pgd", "per-image adversarial training by PGD, a comparator")
