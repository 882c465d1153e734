"""Short attacks on a guard that is still in training, with everything known.

Each round takes four: three stay under the threshold and fool the bare target (`evasion`), which is
what a guard learns last; the fourth goes through both branches, or through the rectifier alone.
Every third begins at a perturbation of the bank, the others at random. Rounds differ in the length
of their attacks: a guard of ResNet-20 that had met attacks of 90 steps alone kept 94 % of the
labels under another of 90, and 41 % under one of 150; and one that had met mini-batches of 32 kept
87 % under others, and 52 % under 200 steps in mini-batches of 64.
"""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.engine import Schedule, ascend, update_rule
from training.attacks.fooling import Classifier
from training.attacks.norms import Norm, perturb, random_start
from training.attacks.objectives import mean_loss
from training.datasets import Pictures, Subset, batch_for
from training.guard.evasion import evading
from training.guard.recipe import Recipe
from training.guard.surrogates import bare_target, expected_guard, in_precision, through_rectifier
from training.randomness import generator_for

PER_ROUND: Final = 4
FROM_THE_BANK: Final = 3
BATCH: Final = 64
LENGTHS: Final = (1.0, 2.0, 0.5)
"""Of the attacks of successive rounds, in the steps of the recipe."""
JUDGED_AT_ONCE: Final = 250
EVASION: Final = 2.0
"""Weight of a unit of score above the threshold, beside a mean loss of at most 9."""


@final
@dataclass(frozen=True, kw_only=True)
class GuardAttack:
    """What the attacks of all rounds have in common.

    Args:
        pictures: to craft on.
        bank: perturbations `(P, C, H, W)` to begin at.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        recipe: steps and precision.
        seed: of every random choice.
    """

    pictures: Pictures
    bank: Tensor
    norm: Norm
    epsilon: float
    recipe: Recipe
    seed: int

    def run(self, guarded: GuardedClassifier, number: int) -> tuple[str, Tensor]:
        """Attack `guarded` for the `number`-th time: what was tried, and what it gave `(C, H, W)`.

        The result is on the device of the pictures.
        """
        generator = generator_for(self.seed, "attack on the guard", number)
        length = LENGTHS[number // PER_ROUND % len(LENGTHS)]
        steps, precision = max(1, round(length * self.recipe.attack_steps)), self.recipe.precision
        batch_size = batch_for(self.pictures.shape, BATCH)
        order = torch.randperm(len(self.pictures), generator=generator)
        # No more pictures than the steps see: the clean label of each costs a pass.
        some = Subset(self.pictures, order[: steps * batch_size // 2])
        name, classifier = self._through(guarded, number)
        objective = mean_loss(in_precision(classifier, precision), some, [None])
        if name == "evade":
            objective = evading(objective, guarded, weight=EVASION, precision=precision)
        found = ascend(
            objective,
            some,
            self._start(number, generator)[None],
            update=update_rule(
                "sign-pgd", norm=self.norm, epsilon=self.epsilon, schedule=Schedule(steps=steps)
            ),
            steps=steps,
            batch_size=batch_size,
            generator=generator,
        )
        return name, found[0]

    def _through(self, guarded: GuardedClassifier, number: int) -> tuple[str, Classifier]:
        turn, which = divmod(number, PER_ROUND)
        if which < PER_ROUND - 1:
            return "evade", bare_target(guarded)
        if turn % 2 == 0:
            return "expected guard", expected_guard(guarded)
        return "rectifier", through_rectifier(guarded)

    def _start(self, number: int, generator: torch.Generator) -> Tensor:
        if number % FROM_THE_BANK == FROM_THE_BANK - 1:
            chosen = int(torch.randint(len(self.bank), (1,), generator=generator))
            return self.bank[chosen].to(self.pictures.device)
        start = random_start(self.pictures.shape, self.norm, self.epsilon, generator=generator)
        return start.to(self.pictures.device)


@torch.no_grad()
def agreement(
    guarded: GuardedClassifier, pictures: Pictures, labels: Tensor, perturbation: Tensor
) -> Tensor:
    """Share of pictures that keep the target's clean label under the guard, and share flagged.

    Both as one tensor `(2,)` float64 on the CPU.

    Args:
        guarded: the guard.
        pictures: to judge by.
        labels: what the target says of them when clean, `(N,)` int64 on the CPU.
        perturbation: `(C, H, W)`, on the device of the pictures.
    """
    kept = flagged = 0
    batch = batch_for(pictures.shape, JUDGED_AT_ONCE)
    for positions in torch.split(torch.arange(len(pictures)), batch):
        answer = guarded(perturb(pictures.batch(positions), perturbation))
        kept += int((answer.label.cpu() == labels[positions]).sum())
        flagged += int(answer.flagged.sum())
    return torch.tensor([kept, flagged], dtype=torch.float64) / len(pictures)
