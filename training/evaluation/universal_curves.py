"""Universal evasion and targeted success over epsilon, and over the classes to send pictures to.

Source: Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial
Perturbations", section 4.1, figures 2 and 3, Table 1: stochastic-gradient attacks of 100 iterations
with batches of 200. The universal evasion rate (UER) is the share of pictures that are
misclassified against their true labels; the targeted success rate (TSR) of a class is the share of
all pictures that are classified as it, those of the class itself among them.

Departures: perturbations are crafted on other pictures than they are judged on; batches of big
pictures are smaller; starts and mini-batches are the same at every epsilon, so that a point of a
curve does not depend on which others are measured, and the curve is smoother. Those of a class
depend on the classes that are crafted in one pass with it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypedDict

import numpy as np
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Schedule
from training.attacks.fooling import Classifier, predict
from training.attacks.norms import Norm
from training.attacks.stochastic_gradient import stochastic_gradient_uap, stochastic_gradient_uaps
from training.datasets import Pictures, batch_for
from training.evaluation.metrics import Figure, proportion
from training.randomness import generator_for

STEPS: Final = 100
BATCH: Final = 200
LARGEST_PASS: Final = 1000
"""Pictures that go through the classifier at once where several classes are crafted together."""


class Evasion(TypedDict):
    """What one untargeted perturbation does at one radius."""

    epsilon: float
    uer: Figure


class ClassSuccess(TypedDict):
    """What the perturbation of one class does."""

    target_class: int
    tsr: Figure


class TargetedSuccess(TypedDict):
    """What targeted perturbations do at one radius."""

    epsilon: float
    mean: float
    """Mean TSR over the classes."""
    standard_deviation: float
    """Over the classes, as those of a population."""
    classes: list[ClassSuccess]


def evasion_over_epsilon(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    *,
    norm: Norm,
    epsilons: Sequence[float],
    seed: int,
    steps: int = STEPS,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
) -> list[Evasion]:
    """The universal evasion rate of one untargeted perturbation per radius.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        crafting: what the attack sees.
        judging: other pictures, by whose true labels it is judged.
        norm: of the ball.
        epsilons: its radii, on [0, 1] pixels.
        seed: of every random choice.
        steps: of each attack.
        batch_size: pictures per step, fewer big ones.
        on_step: told of the steps done and the steps in all.

    Raises:
        InvalidArgumentError: a ball that makes no sense, or fewer than 1 step.
    """
    found = []
    for number, epsilon in enumerate(epsilons):
        perturbation = untargeted_perturbation(
            classifier,
            crafting,
            norm=norm,
            epsilon=epsilon,
            seed=seed,
            steps=steps,
            batch_size=batch_size,
            on_step=_shifted(on_step, number * steps, len(epsilons) * steps),
        )
        evaded = predict(classifier, judging, perturbation) != judging.labels
        found.append(Evasion(epsilon=epsilon, uer=proportion(evaded.double().numpy())))
    return found


def success_over_targets(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    *,
    norm: Norm,
    epsilons: Sequence[float],
    seed: int,
    target_classes: Sequence[int] | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
) -> list[TargetedSuccess]:
    """The targeted success rate of one perturbation per radius and class.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        crafting: what the attack sees.
        judging: other pictures, all of which count.
        norm: of the ball.
        epsilons: its radii, on [0, 1] pixels.
        seed: of every random choice.
        target_classes: the classes to send pictures to; None takes all.
        steps: of each attack.
        batch_size: pictures per step, fewer big ones.
        on_step: told of the steps done and the steps in all.

    Raises:
        InvalidArgumentError: a ball that makes no sense, no class or an unknown one, or fewer than
            1 step.
    """
    wanted = range(len(crafting.class_names)) if target_classes is None else target_classes
    if not wanted:
        raise InvalidArgumentError("target_classes is empty; expected a class, or None for all.")
    passes = len(_groups(wanted, crafting, batch_size))
    found = []
    for number, epsilon in enumerate(epsilons):
        perturbations = targeted_perturbations(
            classifier,
            crafting,
            wanted,
            norm=norm,
            epsilon=epsilon,
            seed=seed,
            steps=steps,
            batch_size=batch_size,
            on_step=_shifted(on_step, number * passes * steps, len(epsilons) * passes * steps),
        )
        classes = [
            ClassSuccess(
                target_class=label,
                tsr=proportion((predict(classifier, judging, one) == label).double().numpy()),
            )
            for label, one in zip(wanted, perturbations, strict=True)
        ]
        rates = [one["tsr"]["value"] for one in classes]
        found.append(
            TargetedSuccess(
                epsilon=epsilon,
                mean=float(np.mean(rates)),
                standard_deviation=float(np.std(rates)),
                classes=classes,
            )
        )
    return found


def untargeted_perturbation(
    classifier: Classifier,
    crafting: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    steps: int = STEPS,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
) -> Tensor:
    """The perturbation `(C, H, W)` that `evasion_over_epsilon` judges; arguments as there."""
    return stochastic_gradient_uap(
        classifier,
        crafting,
        norm=norm,
        epsilon=epsilon,
        generator=generator_for(seed, "universal evasion"),
        schedule=Schedule(steps=steps),
        batch_size=batch_for(crafting.shape, batch_size),
        on_step=on_step,
    )


def targeted_perturbations(
    classifier: Classifier,
    crafting: Pictures,
    target_classes: Sequence[int],
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    steps: int = STEPS,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
) -> Tensor:
    """The perturbations `(P, C, H, W)` that `success_over_targets` judges, one per class.

    As many classes are crafted at once as keep a pass at about 1,000 small pictures.
    """
    groups = _groups(target_classes, crafting, batch_size)
    crafted = [
        stochastic_gradient_uaps(
            classifier,
            crafting,
            group,
            norm=norm,
            epsilon=epsilon,
            generator=generator_for(seed, "targeted success", group[0]),
            schedule=Schedule(steps=steps),
            batch_size=batch_for(crafting.shape, batch_size),
            on_step=_shifted(on_step, number * steps, len(groups) * steps),
        )
        for number, group in enumerate(groups)
    ]
    return torch.cat(crafted)


def _groups(
    target_classes: Sequence[int], crafting: Pictures, batch_size: int
) -> list[Sequence[int]]:
    """The classes that are crafted together."""
    batch = batch_for(crafting.shape, batch_size)
    size = max(1, batch_for(crafting.shape, LARGEST_PASS) // batch)
    return list(_chunks(target_classes, size))


def _chunks(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]


def _shifted(on_step: OnStep | None, before: int, total: int) -> OnStep | None:
    """Tell `on_step` of steps that come after `before` others, of `total` in all."""
    if on_step is None:
        return None
    return lambda done, _: on_step(before + done, total)
