"""The attacker at work: what it knows, and what it has crafted so far."""

import time
from typing import Final, final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.norms import Norm
from training.attacks.subject import CRAFTING_PICTURES
from training.datasets import Pictures, Subset, held_in_memory
from training.evaluation.informed.crafting import Crafting, Knowledge
from training.evaluation.informed.curves import scaled_epsilon
from training.evaluation.informed.random_search import universal_random_search
from training.evaluation.informed.store import Crafted, PerturbationStore
from training.evaluation.informed.suite import Entry
from training.evaluation.informed.watching import pictures_right
from training.guard.recipe import Precision
from training.progress import tracked
from training.randomness import generator_for

WATCHED_PICTURES: Final = 1000
SEARCH_PICTURES: Final = 200
"""Of those watched, that random search asks about; each proposal is a question about all."""


@final
class Attacker:
    """Crafts the perturbations of one request, each once.

    Args:
        known: the guard, and the attacker's pictures.
        store: of what was crafted so far.
        epsilon: radius of the ball.
        steps: gradients, or proposals of random search, for each.
        seed: of every random choice.
    """

    def __init__(
        self, known: Knowledge, store: PerturbationStore, *, epsilon: float, steps: int, seed: int
    ) -> None:
        self.known = known
        self._store = store
        self._epsilon = epsilon
        self._steps = steps
        self._seed = seed

    def craft(
        self, entry: Entry, *, scale: float = 1.0, steps: int | None = None, title: str = ""
    ) -> Crafted:
        """The perturbation of `entry` at `scale` times epsilon within `steps`, with its curve."""
        known, shape = self.known, self.known.crafting.shape
        epsilon = scaled_epsilon(known.norm, self._epsilon, shape, scale)
        steps = self._steps if steps is None else steps
        key = f"{entry.name}@{scale:g}, {steps} steps"

        def run() -> Crafted:
            begin = time.monotonic()
            with tracked(title or f"Attack on the guard, {key}") as track:
                crafting = Crafting(
                    entry=entry,
                    known=known,
                    epsilon=epsilon,
                    steps=steps,
                    # The same start and pictures at every scale and budget.
                    generator=generator_for(self._seed, f"informed {entry.name}"),
                    on_step=track,
                )
                perturbation, curve = crafting.run()
            seconds = round(time.monotonic() - begin, 1)
            return perturbation, {"curve": curve, "crafting_seconds": seconds}

        return self._store.get(key, run)

    def random_search(self) -> Crafted:
        """The perturbation of a search that asks the guard for labels and for nothing else."""
        known = self.known
        asked = Subset(known.watched, torch.arange(min(SEARCH_PICTURES, len(known.watched))))

        def run() -> Crafted:
            with tracked("Random search against the guard") as track:
                perturbation, counts = universal_random_search(
                    lambda one: pictures_right(known.guarded, asked, one),
                    asked.shape,
                    norm=known.norm,
                    epsilon=self._epsilon,
                    steps=self._steps,
                    generator=generator_for(self._seed, "informed random search"),
                    on_step=track,
                )
            accuracies = [count / len(asked) for count in (counts[0], counts[-1])]
            return perturbation, {"queries": len(counts) * len(asked), "first_last": accuracies}

        return self._store.get(f"random search, {self._steps} steps", run)


def knowledge(
    guarded: GuardedClassifier,
    pictures: Pictures,
    *,
    norm: Norm,
    precision: Precision,
    seed: int,
    starts: Tensor | None,
) -> Knowledge:
    """What the attacker has: at most a fifth of `pictures` to watch by, others to craft on.

    Args:
        guarded: the guard.
        pictures: of the attacker, at least five.
        norm: of the ball.
        precision: that surrogates are differentiated in.
        seed: of the parting, and of the classes to reach.
        starts: perturbations `(P, C, H, W)`, of which the one that hurts the guard most is the
            warm start; None has none.

    Raises:
        DataError: too few pictures.
    """
    if len(pictures) < 5:
        raise DataError(
            f"The attacker has {len(pictures)} pictures; expected at least 5 to craft on and to "
            "watch by. Give more crafting pictures."
        )
    order = torch.randperm(len(pictures), generator=generator_for(seed, "informed pictures"))
    apart = min(WATCHED_PICTURES, len(pictures) // 5)
    device = next(guarded.target.buffers()).device
    watched = held_in_memory(Subset(pictures, order[:apart]), device=device)
    rest = order[apart:][:CRAFTING_PICTURES]
    classes = torch.randperm(
        len(pictures.class_names), generator=generator_for(seed, "informed classes")
    )
    return Knowledge(
        guarded=guarded,
        crafting=held_in_memory(Subset(pictures, rest), device=device),
        watched=watched,
        norm=norm,
        precision=precision,
        classes=tuple(classes.tolist()),
        warm=None if starts is None else _hardest(guarded, watched, starts),
    )


def _hardest(guarded: GuardedClassifier, pictures: Pictures, perturbations: Tensor) -> Tensor:
    counts = [pictures_right(guarded, pictures, one) for one in perturbations]
    return perturbations[counts.index(min(counts))]
