"""Stochastic-gradient universal perturbations.

Source: Shafahi et al., "Universal Adversarial Training", section 3, Algorithm 2: ascend the mean
clipped cross-entropy over mini-batches and project after every step. Step sizes as in `Schedule`.

Departures: labels are the classifier's own clean predictions, because that is what the fooling
rate is measured against; perturbed pictures are kept in [0, 1], as a deployed classifier receives
them; an optional penalty on the cosine to given perturbations makes banks diverse.
"""

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Rule, Schedule, ascend, update_rule
from training.attacks.fooling import Classifier, predict
from training.attacks.losses import clipped_cross_entropy, closeness_to_class, cosine_excess
from training.attacks.norms import Norm, check_ball, perturb, random_start
from training.datasets import Pictures, batch_for

LARGEST_BATCH = 200
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
    away_from: Tensor | None = None,
    rule: Rule = "sign-pgd",
    schedule: Schedule | None = None,
    batch_size: int | None = None,
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
        away_from: perturbations `(M, C, H, W)` whose direction is to be avoided.
        rule: how the gradient becomes a step.
        schedule: number and sizes of the steps.
        batch_size: pictures per step, drawn with replacement; None takes 200, fewer big ones.
        on_step: told of every step.

    Raises:
        InvalidArgumentError: a ball that makes no sense, or an unknown rule or class.
    """
    check_ball(norm, epsilon, pictures.shape)
    if target_class is not None and not 0 <= target_class < len(pictures.class_names):
        raise InvalidArgumentError(
            f"target_class is {target_class}; expected 0 to {len(pictures.class_names) - 1}."
        )
    schedule = schedule or Schedule()
    labels = None if target_class is not None else predict(classifier, pictures)
    directions = None
    if away_from is not None and len(away_from):
        directions = away_from.flatten(1) / away_from.flatten(1).norm(dim=1, keepdim=True)

    def objective(images: Tensor, positions: Tensor, perturbation: Tensor) -> Tensor:
        logits = classifier(perturb(images, perturbation))
        if labels is not None:
            value = clipped_cross_entropy(logits, labels[positions]).mean()
        else:
            value = closeness_to_class(logits, target_class or 0).mean()
        if directions is not None:
            excess = cosine_excess(perturbation, directions, allowed=FREE_COSINE)
            value = value - REPULSION * excess
        return value

    if start is None:
        start = random_start(pictures.shape, norm, epsilon, generator=generator)
    return ascend(
        objective,
        pictures,
        start,
        update=update_rule(rule, norm=norm, epsilon=epsilon, schedule=schedule),
        steps=schedule.steps,
        batch_size=batch_size or batch_for(pictures.shape, LARGEST_BATCH),
        generator=generator,
        on_step=on_step,
    )
