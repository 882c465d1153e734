"""The short form of an attacker who knows the guard, as part of `evaluate`.

Universal perturbations are re-optimised end to end through each surrogate of the guard
(`training.guard.surrogates`), from several random starts, and whatever hurts the real one most is
reported. `attack-guard` is the long form: more attacks, more steps, and checks of their strength.
"""

from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.engine import Schedule
from training.attacks.norms import Norm
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.datasets import Pictures, batch_for
from training.evaluation.informed.crafting import BATCH_SIZE
from training.evaluation.informed.curves import scaled_epsilon
from training.evaluation.informed.store import Crafted, PerturbationStore
from training.guard.folder import GuardRecord
from training.guard.surrogates import SURROGATES
from training.progress import Tracker, tracked
from training.randomness import generator_for

STEPS: Final = 200


def adaptive_perturbation(
    guarded: GuardedClassifier,
    surrogate: str,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    track: Tracker | None = None,
) -> Tensor:
    """A perturbation `(C, H, W)` crafted through one of `SURROGATES` on `pictures`."""
    return stochastic_gradient_uap(
        SURROGATES[surrogate](guarded),
        pictures,
        norm=norm,
        epsilon=epsilon,
        generator=generator,
        schedule=Schedule(steps=STEPS),
        batch_size=batch_for(pictures.shape, BATCH_SIZE),
        on_step=track,
    )


@final
class InformedAttacker:
    """Crafts adaptive perturbations, each once; those of an interrupted run are kept.

    Args:
        guarded: the guard under attack.
        record: its record, for the ball.
        pictures: what the attacker crafts on.
        path: safetensors file of what was crafted so far, by `surrogate@scale#start`.
        request: the evaluation that the file must belong to.
        seed: of every random choice.
    """

    def __init__(
        self,
        guarded: GuardedClassifier,
        record: GuardRecord,
        pictures: Pictures,
        *,
        path: Path,
        request: dict[str, Any],
        seed: int,
    ) -> None:
        self._guarded = guarded
        self._record = record
        self._pictures = pictures
        self._seed = seed
        self._store = PerturbationStore(path, request)

    def perturbation(self, surrogate: str, start: int, *, scale: float = 1.0) -> Tensor:
        """The perturbation `(C, H, W)` through `surrogate`, at `scale` times the epsilon.

        `start` is the number of the random start; each gives another perturbation. At another scale
        the attack begins at the same start, scaled, and sees the same pictures.
        """
        record = self._record
        epsilon = scaled_epsilon(record.norm, record.epsilon, record.input.shape, scale)

        def craft() -> Crafted:
            title = f"Adaptive attack, {surrogate}, epsilon {epsilon:.3g}, start {start + 1}"
            with tracked(title) as track:
                perturbation = adaptive_perturbation(
                    self._guarded,
                    surrogate,
                    self._pictures,
                    norm=record.norm,
                    epsilon=epsilon,
                    # Not of this scale: the curve over epsilon would compare other starts.
                    generator=generator_for(self._seed, f"adaptive {surrogate}@1#{start}"),
                    track=track,
                )
            return perturbation, {}

        return self._store.get(f"{surrogate}@{scale:g}#{start}", craft)[0]
