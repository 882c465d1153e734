"""What every hardening method is asked, and how a method says what it can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import Norm
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

Rule = Literal["fgsm", "sgd", "adam"]
Option = Literal[
    "weight", "projections", "adversarial_share", "rule", "sharedness", "sigma", "attack_steps"
]
"""The fields of `MethodOptions`, each of which has a meaning for some methods."""
OPTIONS: Final[tuple[Option, ...]] = get_args(Option)


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What a method may be told; None takes its default.

    Args:
        weight: of the penalty, lambda.
        projections: random directions per picture; 0 takes every class, which is exact.
        adversarial_share: share of each mini-batch that is replaced by adversarial examples.
        rule: how a universal perturbation ascends.
        sharedness: pictures that share one perturbation, s.
        sigma: weight of the adversarial part of the loss.
        attack_steps: of the inner attack.

    Raises:
        InvalidArgumentError: a negative weight, which would reward what a penalty is to lower.
    """

    weight: float | None = None
    projections: int | None = None
    adversarial_share: float | None = None
    rule: Rule | None = None
    sharedness: int | None = None
    sigma: float | None = None
    attack_steps: int | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise InvalidArgumentError(f"weight is {self.weight}; expected 0 or more.")

    def given(self) -> dict[str, Any]:
        """The options that are not left to the method."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class HardeningJob:
    """A training, and what the method is to do in it.

    Args:
        trainer: network, pictures and recipe.
        norm: of the ball that perturbations of the training stay in.
        epsilon: its radius on [0, 1] pixels.
        options: of the method.
    """

    trainer: Trainer
    norm: Norm
    epsilon: float
    options: MethodOptions = MethodOptions()


def by(train: Callable[..., None]) -> Callable[[HardeningJob], None]:
    """How `train(trainer, norm=..., epsilon=..., ...)` hardens a job.

    Options that are left out keep the defaults that stand in its signature.
    """

    def harden(job: HardeningJob) -> None:
        train(job.trainer, norm=job.norm, epsilon=job.epsilon, **job.options.given())

    return harden


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to harden."""

    summary: str
    """One line for a list of methods."""
    harden: Callable[[HardeningJob], None]
    """Trains the job's network in place."""
    recipe: Recipe
    """Rates and lengths by default."""
    source: str
    """Where the recipe is from."""
    takes: frozenset[Option] = frozenset()
    """The options that have a meaning for it; others are refused."""
    check: Callable[[MethodOptions, int], None] | None = None
    """Refuses, before any work is done, options that make no sense for mini-batches of so many
    pictures; None where none could."""
