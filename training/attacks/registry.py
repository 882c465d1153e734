"""Every universal attack by name, with one common signature."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep, Rule, Schedule
from training.attacks.fooling import Classifier
from training.attacks.iterative_deepfool import iterative_deepfool_uap
from training.attacks.norms import Norm
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.datasets import Pictures


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """What to craft, against what: the same for every method."""

    classifier: Classifier
    pictures: Pictures
    norm: Norm
    epsilon: float
    generator: torch.Generator
    target_class: int | None = None
    start: Tensor | None = None
    steps: int | None = None
    on_step: OnStep | None = None


@dataclass(frozen=True)
class Method:
    """One universal attack."""

    summary: str
    craft: Callable[[AttackJob], Tensor]
    """Returns a perturbation `(C, H, W)` inside the ball."""


def _stochastic_gradient(rule: Rule) -> Callable[[AttackJob], Tensor]:
    def craft(job: AttackJob) -> Tensor:
        return stochastic_gradient_uap(
            job.classifier,
            job.pictures,
            norm=job.norm,
            epsilon=job.epsilon,
            generator=job.generator,
            target_class=job.target_class,
            start=job.start,
            rule=rule,
            schedule=Schedule() if job.steps is None else Schedule(steps=job.steps),
            on_step=job.on_step,
        )

    return craft


def _iterative_deepfool(job: AttackJob) -> Tensor:
    if job.target_class is not None:
        raise InvalidArgumentError(
            "iterative-deepfool is untargeted; leave out the target class, or take sign-pgd."
        )
    if job.steps is not None:
        raise InvalidArgumentError(
            "iterative-deepfool counts passes over the pictures, not steps; leave out the steps."
        )
    return iterative_deepfool_uap(
        job.classifier,
        job.pictures,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        start=job.start,
        on_step=job.on_step,
    )


METHODS: dict[str, Method] = {
    "sign-pgd": Method(
        "stochastic gradient, steepest step of the norm", _stochastic_gradient("sign-pgd")
    ),
    "sgd": Method("stochastic gradient, plain steps", _stochastic_gradient("sgd")),
    "momentum": Method("stochastic gradient with momentum", _stochastic_gradient("momentum")),
    "adam": Method("stochastic gradient, Adam steps", _stochastic_gradient("adam")),
    "iterative-deepfool": Method("sum of DeepFool steps, picture by picture", _iterative_deepfool),
}


def method(name: str) -> Method:
    """The attack of that name.

    Raises:
        InvalidArgumentError: no attack has that name.
    """
    if name not in METHODS:
        raise InvalidArgumentError(
            f"There is no attack {name!r}; choose one of: {', '.join(METHODS)}."
        )
    return METHODS[name]
