"""Stochastic-gradient universal perturbations.

Source: Shafahi et al., "Universal Adversarial Training", section 3, Algorithm 2: ascend the mean
clipped cross-entropy over mini-batches and project after every step. Step sizes as in `Schedule`.

Departures: labels are the classifier's own clean predictions, because that is what the fooling
rate is measured against; perturbed pictures are kept in [0, 1], as a deployed classifier receives
them; other losses may be ascended; several perturbations may be crafted at once, on the same
mini-batches; an optional penalty on the cosine to given perturbations, and of those crafted
together to each other, makes banks diverse.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Rule, Schedule, Until, ascend, update_rule
from training.attacks.fooling import Classifier
from training.attacks.job import AttackJob, Method
from training.attacks.losses import LossName, cosine_excess
from training.attacks.norms import Norm, check_ball, random_start
from training.attacks.objectives import Objective, mean_loss
from training.datasets import Pictures, batch_for

STEPS = 200
LARGEST_BATCH = 128
FREE_COSINE = 0.12
"""|cosine| below this costs nothing: a little less than the bank's criterion (0.15)."""
REPULSION = 3.0
"""Weight of the cosine penalty beside a mean loss of at most 9."""


def stochastic_gradient_uap(
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    target_class: int | None = None,
    start: Tensor | None = None,
    loss: LossName = "cross_entropy",
    rule: Rule = "sign-pgd",
    schedule: Schedule | None = None,
    batch_size: int | None = None,
    until: Until | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """One universal perturbation `(C, H, W)` float32 with `norm <= epsilon`.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: the crafting set.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the start and the mini-batches.
        target_class: send every picture there; None drives each from its clean prediction.
        start: perturbation `(C, H, W)` to go on from; None draws one.
        loss: what to ascend.
        rule: how the gradient becomes a step.
        schedule: number and sizes of the steps.
        batch_size: pictures per step, drawn with replacement; None takes 128, fewer big ones.
        until: asked about the perturbations `(P, C, H, W)` after every step; true ends the attack.
        on_step: told of every step.

    Raises:
        InvalidArgumentError: a ball that makes no sense, or an unknown rule, loss or class.
    """
    perturbations = stochastic_gradient_uaps(
        classifier,
        pictures,
        [target_class],
        norm=norm,
        epsilon=epsilon,
        generator=generator,
        start=None if start is None else start[None],
        loss=loss,
        rule=rule,
        schedule=schedule,
        batch_size=batch_size,
        until=until,
        on_step=on_step,
    )
    return perturbations[0]


def stochastic_gradient_uaps(
    classifier: Classifier,
    pictures: Pictures,
    target_classes: Sequence[int | None],
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    start: Tensor | None = None,
    away_from: Tensor | None = None,
    loss: LossName = "cross_entropy",
    rule: Rule = "sign-pgd",
    schedule: Schedule | None = None,
    batch_size: int | None = None,
    until: Until | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Several universal perturbations at once, `(P, C, H, W)` float32 with `norm <= epsilon`.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: the crafting set.
        target_classes: one entry per perturbation: a class to send every picture to, or None.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the starts and the mini-batches.
        start: perturbations `(P, C, H, W)` to go on from; None draws them.
        away_from: perturbations `(M, C, H, W)` whose directions are to be avoided; None does not
            care, not even for those that are crafted together.
        loss: what to ascend.
        rule: how the gradient becomes a step.
        schedule: number and sizes of the steps.
        batch_size: pictures per step, the same for all; None takes 128, fewer big ones.
        until: asked about the perturbations `(P, C, H, W)` after every step; true ends the attack.
        on_step: told of every step.

    Raises:
        InvalidArgumentError: a ball that makes no sense, no perturbation to craft, or an unknown
            rule, loss or class.
    """
    check_ball(norm, epsilon, pictures.shape)
    if not target_classes:
        raise InvalidArgumentError("target_classes is empty; expected one entry per perturbation.")
    schedule = schedule or Schedule()
    objective = mean_loss(classifier, pictures, target_classes, loss=loss)
    if away_from is not None:
        objective = _kept_away(objective, away_from.to(pictures.device))
    if start is None:
        starts = [
            random_start(pictures.shape, norm, epsilon, generator=generator) for _ in target_classes
        ]
        start = torch.stack(starts)
    return ascend(
        objective,
        pictures,
        start,
        update=update_rule(rule, norm=norm, epsilon=epsilon, schedule=schedule),
        steps=schedule.steps,
        batch_size=batch_size or batch_for(pictures.shape, LARGEST_BATCH),
        generator=generator,
        until=until,
        on_step=on_step,
    )


def _kept_away(objective: Objective, away_from: Tensor) -> Objective:
    directions = torch.nn.functional.normalize(away_from.flatten(1), dim=1)

    def penalised(images: Tensor, positions: Tensor, perturbations: Tensor) -> Tensor:
        excess = cosine_excess(perturbations, directions, allowed=FREE_COSINE)
        return objective(images, positions, perturbations) - REPULSION * excess

    return penalised


def by_rule(rule: Rule, summary: str) -> Method:
    """The registry's entry for one rule."""

    def craft(job: AttackJob) -> Tensor:
        return stochastic_gradient_uap(
            job.classifier,
            job.pictures,
            norm=job.norm,
            epsilon=job.epsilon,
            generator=job.generator,
            target_class=job.target_class,
            start=job.start,
            loss=job.loss or "cross_entropy",
            rule=rule,
            schedule=Schedule(steps=STEPS if job.steps is None else job.steps),
            on_step=job.on_step,
        )

    return Method(
        summary=summary,
        family="stochastic gradient",
        craft=craft,
        takes=frozenset({"target_class", "start", "steps", "loss"}),
    )


SIGN_PGD = by_rule("sign-pgd", "mini-batch gradients, steepest step of the norm")
SGD = by_rule("sgd", "mini-batch gradients, plain steps")
MOMENTUM = by_rule("momentum", "mini-batch gradients with momentum")
ADAM = by_rule("adam", "mini-batch gradients, Adam steps")
