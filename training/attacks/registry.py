"""Every universal attack by name: to add one, write its file and name its `Method` here."""

from typing import Final

from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks import (
    aggregated_gradient,
    data_free,
    gabor,
    generator,
    iterative_deepfool,
    perlin,
    singular_vector,
    stochastic_gradient,
)
from training.attacks.job import OPTIONS, AttackJob, Method, Option
from training.attacks.norms import check_ball

METHODS: Final[dict[str, Method]] = {
    "sign-pgd": stochastic_gradient.SIGN_PGD,
    "sgd": stochastic_gradient.SGD,
    "momentum": stochastic_gradient.MOMENTUM,
    "adam": stochastic_gradient.ADAM,
    "sga": aggregated_gradient.AGGREGATED_GRADIENT,
    "iterative-deepfool": iterative_deepfool.ITERATIVE_DEEPFOOL,
    "singular-vector": singular_vector.SINGULAR_VECTOR,
    "data-free": data_free.DATA_FREE,
    "generator": generator.GENERATOR,
    "perlin": perlin.PERLIN,
    "gabor": gabor.GABOR,
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


def craft(name: str, job: AttackJob) -> Tensor:
    """Craft one perturbation `(C, H, W)` by the attack of that name.

    Raises:
        InvalidArgumentError: no attack has that name, it has no use for an option that was given,
            or the options make no sense.
    """
    chosen = method(name)
    check_ball(job.norm, job.epsilon, job.pictures.shape)
    for option in OPTIONS:
        if getattr(job, option) is not None and option not in chosen.takes:
            raise InvalidArgumentError(
                f"{name} has no use for {option}: leave it out, or choose one of: "
                f"{', '.join(_that_take(option))}."
            )
    return chosen.craft(job)


def _that_take(option: Option) -> list[str]:
    return [name for name, method in METHODS.items() if option in method.takes]
