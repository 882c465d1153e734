"""Every hardening method by name: to add one, write its file and name its `Method` here."""

from dataclasses import replace
from typing import Any, Final

import torch

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import check_ball
from training.hardening import (
    cross_lipschitz,
    input_gradient,
    jacobian,
    jacobian_post_processing,
    low_cost_universal_adversarial,
    per_image_adversarial,
    plain,
    shared_adversarial,
    universal_adversarial,
)
from training.hardening.job import OPTIONS, HardeningJob, Method, MethodOptions
from training.hardening.recipe import Augmentation, Recipe

METHODS: Final[dict[str, Method]] = {
    "plain": plain.PLAIN,
    "jacobian": jacobian.JACOBIAN,
    "jacobian-post": jacobian_post_processing.JACOBIAN_POST_PROCESSING,
    "input-gradient": input_gradient.INPUT_GRADIENT,
    "cross-lipschitz": cross_lipschitz.CROSS_LIPSCHITZ,
    "fgsm": per_image_adversarial.FGSM,
    "pgd": per_image_adversarial.PGD,
    "uat": universal_adversarial.UNIVERSAL_ADVERSARIAL,
    "uat-low-cost": low_cost_universal_adversarial.LOW_COST_UNIVERSAL_ADVERSARIAL,
    "shared": shared_adversarial.SHARED_ADVERSARIAL,
}


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        InvalidArgumentError: no method has that name.
    """
    if name not in METHODS:
        raise InvalidArgumentError(
            f"There is no hardening method {name!r}; choose one of: {', '.join(METHODS)}."
        )
    return METHODS[name]


def recipe_of(
    name: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    largest_gradient: float | None = None,
    augmentation: Augmentation | None = None,
    patience: int | None = None,
) -> Recipe:
    """The recipe of the method of that name, with what is given instead of its own.

    Raises:
        InvalidArgumentError: no method has that name, or a value is out of range.
    """
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "largest_gradient": largest_gradient,
        "augmentation": augmentation,
        "patience": patience,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(method(name).recipe, **changes)


def check_options(name: str, options: MethodOptions) -> None:
    """Refuse options that the method of that name has no use for.

    Raises:
        InvalidArgumentError: no method has that name, or an option is given that is not its own.
    """
    chosen = method(name)
    for option in OPTIONS:
        if getattr(options, option) is not None and option not in chosen.takes:
            taken_by = [other for other, one in METHODS.items() if option in one.takes]
            raise InvalidArgumentError(
                f"{name} has no use for {option}: leave it out, or choose one of: "
                f"{', '.join(taken_by)}."
            )


def check_request(name: str, options: MethodOptions, pictures: int) -> None:
    """Refuse options that the method of that name has no use for, or not in such mini-batches.

    Args:
        name: of the method.
        options: what it is told.
        pictures: of each mini-batch, in one process.

    Raises:
        InvalidArgumentError: no method has that name, or an option makes no sense for it.
    """
    check_options(name, options)
    check = method(name).check
    if check is not None:
        check(options, pictures)


def harden(name: str, job: HardeningJob) -> None:
    """Train the network of `job` in place by the method of that name.

    Raises:
        InvalidArgumentError: no method has that name, it has no use for an option that was given,
            or the options make no sense.
        DataError: the loss stops being finite.
    """
    check_ball(job.norm, job.epsilon, job.trainer.pictures.shape)
    check_options(name, job.options)
    # Dropout is seeded anew at every step; the caller's own generator is left as it was.
    device = job.trainer.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        method(name).harden(job)
