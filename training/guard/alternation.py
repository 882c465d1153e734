"""Rounds of attacking the guard and training it on what was found, until another gains nothing.

Ours; the PRN paper's attacker does not know the rectifier. In each round the guard as it stands is
attacked with everything known, by attacks that it does not answer while they run: perturbations
that are only moved beside the training (`held_perturbations`) left a guard that a fresh attack of
as many steps broke. What was found joins the perturbations that part of each mini-batch is under,
those that did more harm and recent ones more often, and rectifier and detector are trained on.

The rounds end early where the last `PATIENCE` ones hold no better than those before; `COOLING` more
follow then, so that only of more than 9 any can be left out. The learning rate stands still, and
falls to 0 over the last `COOLING` rounds.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.fooling import predict
from training.attacks.norms import Norm
from training.checkpoint import resume_training, save_training
from training.datasets import Pictures
from training.guard.augmentation import vary
from training.guard.fit_detector import scores
from training.guard.fit_rectifier import check_finite, orders
from training.guard.guard_attack import LENGTHS, PER_ROUND, GuardAttack, agreement
from training.guard.joint_detector import JointDetector
from training.guard.rectifier_batches import aimed_at, draw_batch
from training.guard.rectifier_training import RectifierTraining
from training.randomness import generator_for

RATE_SHARE: Final = 0.5
"""Of the recipe's learning rate."""
COOLING: Final = 3
PATIENCE: Final = 3
LEAST_GAIN: Final = 0.005
OLDEST_WEIGHT: Final = 0.3
"""Of the first perturbation found, beside 1 of the last."""
LEAST_WEIGHT: Final = 0.1
"""Of a perturbation that did no harm."""
FOUND: Final = "found"


@final
@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one attack did to the guard as it stood."""

    round: int
    attack: str
    kept: float
    """Share of pictures that keep the target's clean label under the guard."""
    flagged: float


@final
@dataclass(kw_only=True)
class Alternation:
    """What the rounds have found so far."""

    found: Tensor
    """`(N, C, H, W)`."""
    attempts: list[Attempt] = field(default_factory=list)

    def worst(self, number: int) -> float:
        """Share of pictures that kept their label under the stronger attack of a round."""
        return min(one.kept for one in self.attempts if one.round == number)

    def gains_nothing(self) -> bool:
        """Whether the last `PATIENCE` rounds held no better than those before.

        A round counts for no more than the worst of it and the ones before it that make a cycle
        of attacks of all lengths: short attacks alone say little.
        """
        held = [
            min(self.worst(one) for one in range(last - len(LENGTHS) + 1, last + 1))
            for last in range(len(LENGTHS) - 1, len(self.attempts) // PER_ROUND)
        ]
        if len(held) <= PATIENCE:
            return False
        return max(held[-PATIENCE:]) < max(held[:-PATIENCE]) + LEAST_GAIN

    def weights(self) -> Tensor:
        """How often each of `found` is trained on, relative to the others: `(N,)`."""
        harm = torch.tensor([LEAST_WEIGHT + 1 - one.kept for one in self.attempts])
        return harm * torch.linspace(OLDEST_WEIGHT, 1.0, len(harm))

    def facts(self) -> list[dict[str, Any]]:
        """The attempts as plain JSON values."""
        return [asdict(one) for one in self.attempts]


OnRound = Callable[[int, int, Alternation], None]
"""Called with the rounds done, the most there may be, and what was found."""


@final
@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Everything that the rounds need.

    Args:
        training: rectifier, joint detector, target and recipe, on the device of the pictures.
        pictures: clean training pictures.
        judging: others, to set a threshold and to see how the guard holds.
        bank: perturbations `(P, C, H, W)`, real and synthetic.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        false_positive_rate: of the guard that is attacked, on the pictures to judge by.
        seed: of every random choice.
    """

    training: RectifierTraining
    joint: JointDetector
    pictures: Pictures
    judging: Pictures
    bank: Tensor
    norm: Norm
    epsilon: float
    false_positive_rate: float
    seed: int

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        on_round: OnRound | None = None,
    ) -> Alternation:
        """Alternate; the rectifier and the detector are trained in place.

        Args:
            checkpoint: file for the exact state after each round, and to go on from.
            on_round: told of the rounds done, the most there may be, and what was found.

        Raises:
            DataError: the loss stops being finite.
        """
        training, recipe = self.training, self.training.recipe
        resumed = resume_training(checkpoint, training.trained, training.optimizer)
        empty = torch.zeros(0, *self.pictures.shape)
        state = Alternation(
            found=resumed.kept.get(FOUND, empty).to(self.pictures.device),
            attempts=[Attempt(**one) for one in resumed.facts.get("attempts", [])],
        )
        end = resumed.facts.get("end", recipe.rounds)
        number = resumed.done
        labels = predict(training.target, self.judging)
        while number < end:
            self._attack(state, number, labels)
            self._train(state, number, end)
            number += 1
            # Asked of one: where counts differ by a rounding, the others would wait for ever.
            if end == recipe.rounds and training.together.leader_says(state.gains_nothing()):
                end = min(end, number + COOLING)
            if checkpoint is not None and training.together.leads:
                save_training(
                    checkpoint, training.trained, training.optimizer, done=number,
                    kept={FOUND: state.found}, facts={"attempts": state.facts(), "end": end},
                )  # fmt: skip
            if on_round is not None:
                on_round(number, end, state)
        training.trained.eval()
        return state

    def _attack(self, state: Alternation, number: int, labels: Tensor) -> None:
        """Attack the guard as it stands; every process ends with what the leading one found."""
        training = self.training
        training.trained.eval()
        guarded = self._guard()
        attack = GuardAttack(
            pictures=self.pictures,
            bank=self.bank,
            norm=self.norm,
            epsilon=self.epsilon,
            recipe=training.recipe,
            seed=self.seed,
        )
        for which in range(PER_ROUND):
            name, found = attack.run(guarded, PER_ROUND * number + which)
            training.together.hear([found])
            told = agreement(guarded, self.judging, labels, found).to(found.device)
            # Counts too: they say what is trained on, and may differ by a rounding.
            training.together.hear([told])
            kept, flagged = told.tolist()
            state.attempts.append(Attempt(round=number, attack=name, kept=kept, flagged=flagged))
            state.found = torch.cat([state.found, found[None]])

    def _guard(self) -> GuardedClassifier:
        detector = self.joint.detector()
        clean = scores(self.training.rectifier, detector, self.judging)
        share = 1 - self.false_positive_rate
        # The quantile itself: for a conformal one there may be too few pictures to judge by.
        detector.threshold.copy_(clean.quantile(share, interpolation="higher"))
        return GuardedClassifier(self.training.target, self.training.rectifier, detector)

    def _train(self, state: Alternation, number: int, end: int) -> None:
        training, recipe = self.training, self.training.recipe
        training.trained.train()
        weights = state.weights()
        first = number * recipe.round_iterations
        last = first + recipe.round_iterations
        for iteration, positions in orders(self.pictures, recipe, first, last, self.seed + 1):
            generator = generator_for(self.seed, "round", iteration)
            batch = draw_batch(
                self.pictures,
                positions,
                self.bank,
                recipe=recipe,
                norm=self.norm,
                epsilon=self.epsilon,
                generator=generator,
            )
            count = max(1, round(recipe.adversarial_share * recipe.batch_size))
            chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
            batch = aimed_at(
                batch, self._varied(state, chosen, generator), recipe.adversarial_share
            )
            left = (end * recipe.round_iterations - iteration) / (COOLING * recipe.round_iterations)
            rate = RATE_SHARE * recipe.learning_rate * min(1.0, left)
            check_finite(training.step(batch, rate=rate), iteration, recipe)

    def _varied(self, state: Alternation, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Those of `found` that were chosen, varied where the recipe varies the bank."""
        if not self.training.recipe.augmented:
            return state.found[chosen]
        return vary(state.found, chosen, generator, norm=self.norm, epsilon=self.epsilon)
