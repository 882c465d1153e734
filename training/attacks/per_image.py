"""Per-image attacks for the reference columns, by one adapter over a maintained library.

The attacks are those of the Adversarial Robustness Toolbox (`art`, Nicolae et al. 2018), an
optional dependency: FGSM (Goodfellow et al. 2015), PGD (Madry et al. 2018), DeepFool
(Moosavi-Dezfooli et al. 2016), JSMA (Papernot et al. 2016) and Square (Andriushchenko et al. 2020).

Departures from the library as it comes (release 1.20.1): what it returns is brought into the ball,
because its DeepFool knows none. Its DeepFool is shown the ten most likely logits of each picture
instead of being asked for ten, because it then reads the logit of another class in place of the
picture's own, and steps were twice as long as needed. Its Square in l2 is left out: it divides a
new window by the length that the paper multiplies it by, which is 0 at times. JSMA gets one class
per picture to send it to, because the library draws one per label for a whole batch. Gradients
reach the pictures only, never the classifier's weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.deepfool import NEAREST_CLASSES, OVERSHOOT
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.norms import check_ball, project
from training.attacks.reference_library import estimator_for, seeded
from training.datasets import batch_for

PerImageNorm = Literal["linf", "l2", "l0"]
"""In `l0`, epsilon is the share of a picture's `C * H * W` values that may change."""
LARGEST_BATCH: Final = 100


@dataclass(frozen=True, kw_only=True)
class PerImageAttack:
    """One per-image attack of the library."""

    summary: str
    """One line for a list of attacks."""
    norms: tuple[PerImageNorm, ...]
    """The balls that it can stay inside."""
    build: Callable[[Any, "_Wish"], Any]
    """Makes the library's attack on the library's estimator."""
    steps: int | None = None
    """How many it takes by default; None: it has no such choice."""
    towards_a_class: bool = False
    """Knows only how to send a picture to a class: each gets a random wrong one."""
    nearest_classes: bool = False
    """Is shown the logits of each picture's most likely classes only."""
    square_only: bool = False
    """Takes square pictures only."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    norm: PerImageNorm
    epsilon: float
    steps: int
    values: int
    """`C * H * W` of the pictures."""

    @property
    def order(self) -> float:
        """The norm as the library names it."""
        return np.inf if self.norm == "linf" else 2.0


def _fgsm(estimator: Any, wish: _Wish) -> Any:
    from art.attacks.evasion import FastGradientMethod

    return FastGradientMethod(
        estimator, norm=wish.order, eps=wish.epsilon, batch_size=LARGEST_BATCH
    )


def _pgd(estimator: Any, wish: _Wish) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent

    # Madry et al.'s step: the ball can be crossed from any start, with some steps to spare.
    return ProjectedGradientDescent(
        estimator,
        norm=wish.order,
        eps=wish.epsilon,
        eps_step=2.5 * wish.epsilon / wish.steps,
        max_iter=wish.steps,
        num_random_init=1,
        batch_size=LARGEST_BATCH,
        verbose=False,
    )


def _deepfool(estimator: Any, wish: _Wish) -> Any:
    from art.attacks.evasion import DeepFool

    # Ten steps by default: without an overshoot on the way some pictures hover at the boundary, and
    # the library differentiates the whole batch until the last one is across.
    return DeepFool(
        estimator,
        max_iter=wish.steps,
        epsilon=OVERSHOOT,
        nb_grads=NEAREST_CLASSES,
        batch_size=LARGEST_BATCH,
        verbose=False,
    )


def _jsma(estimator: Any, wish: _Wish) -> Any:
    from art.attacks.evasion import SaliencyMapMethod

    # The library compares before it changes two more values, so it is told two fewer; the half
    # keeps its comparison of fractions away from ties.
    allowed = math.floor(wish.epsilon * wish.values + 1e-9) - 1.5
    return SaliencyMapMethod(
        estimator, theta=1.0, gamma=allowed / wish.values, batch_size=LARGEST_BATCH, verbose=False
    )


def _square(estimator: Any, wish: _Wish) -> Any:
    from art.attacks.evasion import SquareAttack

    return SquareAttack(
        estimator,
        norm=wish.order,
        eps=wish.epsilon,
        max_iter=wish.steps,
        batch_size=LARGEST_BATCH,
        verbose=False,
    )


PER_IMAGE_ATTACKS: Final[dict[str, PerImageAttack]] = {
    "fgsm": PerImageAttack(
        summary="one step of the gradient's sign", norms=("linf", "l2"), build=_fgsm
    ),
    "pgd": PerImageAttack(
        summary="projected gradient steps from a random start",
        norms=("linf", "l2"),
        build=_pgd,
        steps=40,
    ),
    "deepfool": PerImageAttack(
        summary="the smallest step over a boundary; steps that leave the ball are shortened",
        norms=("l2",),
        build=_deepfool,
        steps=10,
        nearest_classes=True,
    ),
    "jsma": PerImageAttack(
        summary="few values, each made white, chosen by the Jacobian; slow",
        norms=("l0",),
        build=_jsma,
        towards_a_class=True,
    ),
    "square": PerImageAttack(
        summary="random squares, no gradients; steps are queries",
        norms=("linf",),
        build=_square,
        steps=300,
        square_only=True,
    ),
}


def per_image(name: str) -> PerImageAttack:
    """The per-image attack of that name.

    Raises:
        InvalidArgumentError: no attack has that name.
    """
    if name not in PER_IMAGE_ATTACKS:
        raise InvalidArgumentError(
            f"There is no per-image attack {name!r}; choose one of: {', '.join(PER_IMAGE_ATTACKS)}."
        )
    return PER_IMAGE_ATTACKS[name]


def per_image_attack(
    name: str,
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    norm: PerImageNorm,
    epsilon: float,
    generator: torch.Generator,
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Perturb each of `images` by itself, so that it is no longer taken for its label.

    Args:
        name: one of `PER_IMAGE_ATTACKS`.
        classifier: maps `(B, C, H, W)` in [0, 1] to logits `(B, K)`, on the device of `images`.
        images: `(B, C, H, W)` float32 in [0, 1].
        labels: `(B,)` int64, what to get away from; DeepFool leaves the prediction instead.
        norm: of the ball; each attack names those that it knows.
        epsilon: the ball's radius on [0, 1] pixels; in l0 a share of values, see `PerImageNorm`.
        generator: CPU generator that seeds the library's random choices.
        steps: iterations or queries; None takes the attack's default.
        on_step: told of the pictures done and the pictures in all.

    Returns:
        `(B, C, H, W)` float32 in [0, 1] on the CPU, within epsilon of `images`.

    Raises:
        InvalidArgumentError: the library is missing, no attack has that name, or norm, epsilon,
            steps, labels or the shape of the pictures are not for it.
    """
    attack = per_image(name)
    _check(name, attack, images, labels, norm, epsilon, steps)
    wish = _Wish(
        norm=norm,
        epsilon=float(epsilon),
        steps=steps or attack.steps or 1,
        values=math.prod(images.shape[1:]),
    )
    with torch.no_grad():
        classes = classifier(images[:1]).shape[1]
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InvalidArgumentError(
            f"The labels run from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{classes - 1}, as the classifier has {classes} classes."
        )
    if attack.towards_a_class:
        labels = (labels.cpu() + torch.randint(1, classes, labels.shape, generator=generator)) % (
            classes
        )
    size = batch_for((images.shape[1], images.shape[2], images.shape[3]), LARGEST_BATCH)
    found = []
    with seeded(generator, images.device):
        for some, wanted in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            shown = classifier
            if attack.nearest_classes and classes > NEAREST_CLASSES:
                shown = _nearest(classifier, some)
            estimator = estimator_for(shown, some)
            # Copied: the library writes into the arrays that it is given.
            perturbed = attack.build(estimator, wish).generate(
                some.cpu().numpy().copy(), wanted.cpu().numpy()
            )
            found.append(_inside(some.cpu(), torch.from_numpy(perturbed), wish))
            if on_step is not None:
                on_step(sum(len(one) for one in found), len(images))
    return torch.cat(found)


def _nearest(classifier: Classifier, images: Tensor) -> Classifier:
    """Logits of the classes that are most likely for each of `images`, and for no other batch."""
    with torch.no_grad():
        ranked = classifier(images).topk(NEAREST_CLASSES, dim=1).indices
    return lambda moved: classifier(moved).gather(1, ranked)


def _inside(images: Tensor, perturbed: Tensor, wish: _Wish) -> Tensor:
    if wish.norm == "l0":
        return perturbed.clamp(0.0, 1.0)
    perturbation = project(perturbed - images, wish.norm, wish.epsilon)
    return (images + perturbation).clamp(0.0, 1.0)


def _check(
    name: str,
    attack: PerImageAttack,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: float,
    steps: int | None,
) -> None:
    if images.ndim != 4 or not len(images) or labels.shape != (len(images),):
        raise InvalidArgumentError(
            f"The pictures are {tuple(images.shape)} and the labels {tuple(labels.shape)}; "
            "expected (B, C, H, W) and (B,), at least one."
        )
    if norm not in attack.norms:
        others = [other for other, entry in PER_IMAGE_ATTACKS.items() if norm in entry.norms]
        known = f"choose one of {', '.join(others)}" if others else f"{norm!r} is known to none"
        raise InvalidArgumentError(
            f"{name} attacks in {' and '.join(attack.norms)}, not in {norm}: {known}, or take "
            f"another norm ({', '.join(get_args(PerImageNorm))})."
        )
    shape = tuple(images.shape[1:])
    if norm != "l0":
        check_ball(norm, epsilon, shape)
    elif not 2 - 1e-9 <= epsilon * math.prod(shape) <= math.prod(shape):
        raise InvalidArgumentError(
            f"epsilon is {epsilon:g} in l0, where it is the share of values that may change; "
            f"expected {2 / math.prod(shape):.2g} (two values) to 1 for pictures of {shape}."
        )
    if steps is not None and (attack.steps is None or steps < 1):
        wish = "takes no number of steps: leave it out" if attack.steps is None else "needs 1"
        raise InvalidArgumentError(f"steps is {steps}, but {name} {wish}.")
    if attack.square_only and shape[1] != shape[2]:
        raise InvalidArgumentError(
            f"{name} takes square pictures; these are {shape[1]}x{shape[2]}. Choose another attack."
        )
