"""Aggregated gradients (SGA): small noisy steps whose gradients are averaged for one true step.

Source: Liu, Zhong, Zhang, Qin, Deng, "Enhancing Generalization of Universal Adversarial
Perturbation through Gradient Aggregation", ICCV 2023, Algorithm 1. From the current perturbation an
inner walk of sign steps on small mini-batches is taken and forgotten; the mean of the gradients met
on the way gives the sign step that is kept. Small batches find ways out of poor corners, the mean
over many of them is steady.

Departures: the small batches of one outer step are disjoint parts of one random draw from the whole
crafting set, the source's large batch; step sizes as in `Schedule`, the inner ones as long as the
outer one of that time; in l2 a step goes along the gradient, not along its sign.
"""

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Schedule, Until, climb, update_rule
from training.attacks.fooling import Classifier
from training.attacks.job import AttackJob, Method
from training.attacks.losses import LossName
from training.attacks.norms import Norm, check_ball, project, random_start, steepest_direction
from training.attacks.objectives import Objective, mean_loss
from training.datasets import Pictures, batch_for

INNER_STEPS = 16
INNER_BATCH = 32
STEPS = 50


def aggregated_gradient_uap(
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    target_class: int | None = None,
    start: Tensor | None = None,
    loss: LossName = "cross_entropy",
    schedule: Schedule | None = None,
    inner_steps: int = INNER_STEPS,
    inner_batch: int | None = None,
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
        schedule: number and sizes of the outer steps.
        inner_steps: gradients that are averaged for one outer step.
        inner_batch: pictures per inner step; None takes 32, fewer big ones.
        until: asked about the perturbation, as `(1, C, H, W)`, after every outer step; true ends
            the attack.
        on_step: told of every outer step.

    Raises:
        InvalidArgumentError: a ball that makes no sense, no inner step, or an unknown loss or
            class.
    """
    check_ball(norm, epsilon, pictures.shape)
    if inner_steps < 1:
        raise InvalidArgumentError(f"inner_steps is {inner_steps}; expected at least 1.")
    schedule = schedule or Schedule(steps=STEPS)
    objective = mean_loss(classifier, pictures, [target_class], loss=loss)
    if start is None:
        start = random_start(pictures.shape, norm, epsilon, generator=generator)
    batch_size = inner_batch or max(1, batch_for(pictures.shape, 4 * INNER_BATCH) // 4)

    def gradient_at(perturbations: Tensor, step: int) -> Tensor:
        positions = torch.randint(len(pictures), (inner_steps, batch_size), generator=generator)
        return aggregated_gradient(
            objective,
            pictures,
            positions,
            perturbations.detach()[0],
            norm=norm,
            epsilon=epsilon,
            size=schedule.size(step, epsilon),
        )[None]

    perturbations = climb(
        gradient_at,
        start[None].to(pictures.device),
        update=update_rule("sign-pgd", norm=norm, epsilon=epsilon, schedule=schedule),
        steps=schedule.steps,
        until=until,
        on_step=on_step,
    )
    return perturbations[0]


def aggregated_gradient(
    objective: Objective,
    pictures: Pictures,
    positions: Tensor,
    perturbation: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    size: float,
) -> Tensor:
    """Mean gradient `(C, H, W)` along an inner walk that starts at `perturbation`.

    Args:
        objective: what the walk ascends.
        pictures: the crafting set.
        positions: pictures of each inner step, `(M, B)` int64.
        perturbation: `(C, H, W)`.
        norm: of the ball that the walk keeps to.
        epsilon: its radius.
        size: length of every inner step.
    """
    total = torch.zeros_like(perturbation)
    inner = perturbation
    for chosen in positions:
        leaf = inner[None].requires_grad_()
        value = objective(pictures.batch(chosen), chosen, leaf).sum()
        gradient = torch.autograd.grad(value, leaf)[0][0]
        total += gradient
        inner = project(inner + size * steepest_direction(gradient, norm), norm, epsilon)
    return total / len(positions)


def _craft(job: AttackJob) -> Tensor:
    return aggregated_gradient_uap(
        job.classifier,
        job.pictures,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        target_class=job.target_class,
        start=job.start,
        loss=job.loss or "cross_entropy",
        schedule=Schedule(steps=STEPS if job.steps is None else job.steps),
        on_step=job.on_step,
    )


AGGREGATED_GRADIENT = Method(
    summary="gradients along an inner walk, averaged for one step",
    family="aggregated gradient",
    craft=_craft,
    takes=frozenset({"target_class", "start", "steps", "loss"}),
)
