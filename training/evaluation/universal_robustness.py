"""epsilon_uni(d): how large a universal perturbation must be to be misclassified at a rate of d.

Source: Mummadi, Brox, Metzen 2019, "Defending Against Universal Perturbations With Shared
Adversarial Training", section 5: a binary search of 10 iterations for the radius of the ball, over
all radii that pictures allow. In each an attack is run; where its misclassification rate on other
pictures reaches d the search goes on in the lower half, otherwise in the upper one. The smallest
radius that was reached is reported. It is an upper bound: a stronger attack may need less.

Departures: any registered universal attack may be taken, each with its own schedule (the paper's
has the form of `Schedule`, with 200 steps of 16 pictures), and in l2 as well. An attack that can go
on from a perturbation starts from what the last one found, scaled to the new radius: with 40 steps
on ResNet-20 (CIFAR-10's training pictures, 7/255 after 10/255) 65 and 66 % were misclassified where
random starts ended at 61 and 64 %.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.job import AttackJob
from training.attacks.norms import Norm
from training.attacks.registry import craft
from training.attacks.registry import method as registered
from training.datasets import Pictures
from training.randomness import generator_for

RATE = 0.75
PROBES = 10


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One radius that was tried."""

    epsilon: float
    """On [0, 1] pixels."""
    evasion_rate: float
    """Share of the judging pictures that were misclassified, against their true labels."""


@dataclass(frozen=True, kw_only=True)
class UniversalRobustness:
    """What the search found."""

    rate: float
    """The misclassification rate d."""
    clean_error: float
    """Share misclassified without a perturbation."""
    epsilon: float | None
    """The upper bound: the smallest radius that reached `rate`; None where none did."""
    not_reached: float
    """The largest radius tried below it that did not reach `rate`; 0 where there is none."""
    probes: tuple[Probe, ...]
    """In the order in which they were tried."""


OnProbe = Callable[[Probe, Tensor], None]
"""Called with each new probe and its perturbation `(C, H, W)`."""


def universal_robustness(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    *,
    norm: Norm,
    seed: int,
    rate: float = RATE,
    method: str = "sign-pgd",
    steps: int | None = None,
    number: int = PROBES,
    probes: Sequence[Probe] = (),
    start: Tensor | None = None,
    on_probe: OnProbe | None = None,
    on_step: OnStep | None = None,
) -> UniversalRobustness:
    """Search for the smallest radius at which a universal attack reaches `rate`.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        crafting: what the attack sees.
        judging: other pictures, by whose true labels it is judged.
        norm: of the ball.
        seed: of every random choice; those of a probe depend on its place in the search only.
        rate: the misclassification rate d, above the clean error and at most 1.
        method: a registered universal attack.
        steps: of the attack; None takes its default.
        number: probes in all; the bracket is the largest radius halved as often.
        probes: those of an interrupted search with the same arguments, to go on from.
        start: the perturbation `(C, H, W)` of the last of them; with it the search finds what it
            would have found in one go, without it the next attack has a random start.
        on_probe: told of every new probe.
        on_step: told of every step of an attack.

    Raises:
        InvalidArgumentError: `rate` is not above the clean error, so that no perturbation is
            needed for it; or `probes` are not those of this search, or more than `number`.
    """
    clean_error = fooling_rate(judging.labels, predict(classifier, judging))
    _check(rate, clean_error, number, len(probes))
    low, high = 0.0, _largest(norm, crafting.shape)
    reached: float | None = None
    tried: list[Probe] = []
    begins_anew = "start" not in registered(method).takes
    for place in range(number):
        epsilon = (low + high) / 2
        if place < len(probes):
            probe = _recalled(probes[place], epsilon, place)
        else:
            job = AttackJob(
                classifier=classifier,
                pictures=crafting,
                norm=norm,
                epsilon=epsilon,
                generator=generator_for(seed, "universal robustness", place),
                start=None
                if begins_anew or start is None
                else start * (epsilon / tried[-1].epsilon),
                steps=steps,
                on_step=on_step,
            )
            start = craft(method, job)
            evaded = fooling_rate(judging.labels, predict(classifier, judging, start))
            probe = Probe(epsilon=epsilon, evasion_rate=evaded)
            if on_probe is not None:
                on_probe(probe, start)
        tried.append(probe)
        if probe.evasion_rate >= rate:
            reached = high = probe.epsilon
        else:
            low = probe.epsilon
    return UniversalRobustness(
        rate=rate, clean_error=clean_error, epsilon=reached, not_reached=low, probes=tuple(tried)
    )


def _recalled(probe: Probe, epsilon: float, place: int) -> Probe:
    # Radii are halves of halves, exact in floating point: another search's would differ clearly.
    if not math.isclose(probe.epsilon, epsilon, rel_tol=1e-9):
        raise InvalidArgumentError(
            f"Probe {place} of those to go on from has epsilon {probe.epsilon:g}, where this "
            f"search tries {epsilon:g}. They belong to another search: leave them out."
        )
    return probe


def _largest(norm: Norm, shape: tuple[int, int, int]) -> float:
    """What black and white pictures differ by."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(shape))


def _check(rate: float, clean_error: float, number: int, known: int) -> None:
    if not 0.0 < rate <= 1.0:
        raise InvalidArgumentError(f"rate is {rate:g}; expected above 0 and at most 1, as 0.75.")
    if rate <= clean_error:
        raise InvalidArgumentError(
            f"rate is {rate:g}, but {clean_error:.4g} of the pictures are misclassified without "
            "any perturbation. Expected a rate above that, or pictures that the classifier knows."
        )
    if number < max(1, known):
        raise InvalidArgumentError(
            f"number is {number}; expected at least 1, and no fewer than the {known} probes to go "
            "on from."
        )
