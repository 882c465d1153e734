"""Generator universal perturbations: a network that maps noise vectors into the ball.

Sources: Poursaeed et al. 2018, "Generative Adversarial Perturbations" (GAP), and Mopuri et al.
2018, "NAG: Network for Adversary Generation": the generator is trained through the frozen
classifier to fool it, and by a second term to make different perturbations of different noise.

Departures: the fooling term is the mean loss that all gradient attacks here ascend, of several
perturbations on each mini-batch, where NAG pairs one with each picture. By default it is
`logit_margin`, because cross-entropy is flat where the classifier is sure. Diversity is the cosine
of the perturbations themselves beyond a free allowance, where NAG compares responses of a hidden
layer: any classifier that maps pictures to logits is taken, and a bank is judged by the same
cosine.
"""

from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.generator_network import GeneratorNetwork, draw_noise
from training.attacks.job import AttackJob, Method
from training.attacks.losses import LossName, cosine_excess
from training.attacks.norms import Norm, check_ball, steepest_direction
from training.attacks.objectives import Objective, mean_loss
from training.attacks.selection import best_of
from training.datasets import Pictures, batch_for

STEPS: Final = 400
STACK: Final = 4
"""Perturbations of a step: those that the diversity term compares."""
LARGEST_BATCH: Final = 32
"""Pictures of a step, each under every perturbation of it."""
LEARNING_RATE: Final = 8e-3
FREE_COSINE: Final = 0.1
"""|cosine| below this costs nothing."""
REPULSION: Final = 3.0
"""Weight of the cosine penalty beside a margin of some units."""
CANDIDATES: Final = 16
"""Noise vectors that the single form chooses from."""


def generator_uaps(
    classifier: Classifier,
    pictures: Pictures,
    count: int,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    target_class: int | None = None,
    steps: int = STEPS,
    loss: LossName = "logit_margin",
    on_step: OnStep | None = None,
) -> Tensor:
    """Train a generator, and draw `count` perturbations from it, `(count, C, H, W)` float32.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits; only gradients with respect to its
            input are taken.
        pictures: the crafting set; memory does not grow with it.
        count: how many perturbations to return, one per noise vector.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the network's first weights, the mini-batches and all noise.
        target_class: send every picture there; None drives each from its clean prediction.
        steps: of Adam, one mini-batch each.
        loss: the fooling term.
        on_step: told of every step.

    Raises:
        InvalidArgumentError: a ball that makes no sense, an unknown loss or class, or `count` or
            `steps` below 1.
    """
    if count < 1 or steps < 1:
        raise InvalidArgumentError(
            f"count is {count} and steps {steps}; expected at least 1 of each."
        )
    check_ball(norm, epsilon, pictures.shape)
    objective = mean_loss(classifier, pictures, [target_class] * STACK, loss=loss)
    network = GeneratorNetwork(pictures.shape, generator=generator).to(pictures.device)
    _train(
        network,
        objective,
        pictures,
        norm=norm,
        epsilon=epsilon,
        generator=generator,
        steps=steps,
        on_step=on_step,
    )
    noise = draw_noise(count, generator=generator).to(pictures.device)
    with torch.no_grad():
        return torch.cat(
            [into_ball(network(one), norm, epsilon) for one in torch.split(noise, STACK)]
        )


def generator_uap(
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    target_class: int | None = None,
    steps: int = STEPS,
    loss: LossName = "logit_margin",
    candidates: int = CANDIDATES,
    on_step: OnStep | None = None,
) -> Tensor:
    """The one of `candidates` drawn perturbations that fools most crafting pictures, `(C, H, W)`.

    With a target class, the one that sends most of them there. Arguments and errors are those of
    `generator_uaps`.
    """
    drawn = generator_uaps(
        classifier,
        pictures,
        candidates,
        norm=norm,
        epsilon=epsilon,
        generator=generator,
        target_class=target_class,
        steps=steps,
        loss=loss,
        on_step=on_step,
    )
    return best_of(classifier, pictures, drawn, generator=generator, target_class=target_class)


def into_ball(raw: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """What the network painted, `(P, C, H, W)`, inside the ball: tanh (linf) or scaled (l2)."""
    if norm == "linf":
        return raw.tanh() * epsilon
    return steepest_direction(raw, norm) * epsilon


def _train(
    network: GeneratorNetwork,
    objective: Objective,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    steps: int,
    on_step: OnStep | None,
) -> None:
    """Adam at a rate that falls linearly, on the network's weights alone."""
    weights = list(network.parameters())
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
    batch_size = batch_for(pictures.shape, LARGEST_BATCH)
    nothing_else = torch.zeros(0, pictures.batch(torch.zeros(1, dtype=torch.int64)).numel())
    nothing_else = nothing_else.to(pictures.device)
    for step in range(steps):
        positions = torch.randint(len(pictures), (batch_size,), generator=generator)
        noise = draw_noise(STACK, generator=generator).to(pictures.device)
        perturbations = into_ball(network(noise), norm, epsilon)
        alike = cosine_excess(perturbations, nothing_else, allowed=FREE_COSINE)
        gain = objective(pictures.batch(positions), positions, perturbations) - REPULSION * alike
        gradients = torch.autograd.grad(-gain.mean(), weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        decay.step()
        if on_step is not None:
            on_step(step + 1, steps)


def _craft(job: AttackJob) -> Tensor:
    return generator_uap(
        job.classifier,
        job.pictures,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        target_class=job.target_class,
        steps=STEPS if job.steps is None else job.steps,
        loss=job.loss or "logit_margin",
        on_step=job.on_step,
    )


GENERATOR = Method(
    summary="a network trained to turn noise into perturbations",
    family="generator",
    craft=_craft,
    takes=frozenset({"target_class", "steps", "loss"}),
)
