"""The search for a bank: candidates are crafted, judged, accepted or counted as rejected.

Source: PRN paper, section 5. Diversity comes from random crafting subsets, starts and target
classes, and from a penalty on the cosine to the members already accepted and to the candidates
crafted in the same round.

Departures: the source crafts its perturbations by iterative DeepFool, here they are made by
sign-PGD, which fools more and is faster. A candidate must fool two standard errors more of the
judging pictures than the criterion asks for, so that the criterion holds on other pictures too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.attacks.engine import OnStep, Schedule
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.norms import Norm
from training.attacks.stochastic_gradient import stochastic_gradient_uaps
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures, Subset, held_in_memory
from training.perturbations.bank import Bank, BankCriteria, largest_cosine
from training.randomness import generator_for

CRAFTING_SUBSET = 5000
TARGETED_SHARE = 0.5
"""Share of candidates that are sent to a random class; the others are untargeted.

On LeNet and Fashion-MNIST at linf 0.15, a bank of 25 took 92 candidates without targets, 50 with a
share of 0.3, 45 with 0.5."""


def craft_bank(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    criteria: BankCriteria | None = None,
    schedule: Schedule | None = None,
    together: int = 1,
    resume: Path | None = None,
    on_round: Callable[[Bank], None] | None = None,
    on_step: OnStep | None = None,
) -> Bank:
    """Craft a bank on `crafting` and judge every candidate on `judging`.

    Args:
        classifier: the target, on the device of `judging`.
        crafting: pictures that perturbations are made from.
        judging: pictures that decide over acceptance; disjoint from `crafting`.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice.
        criteria: of acceptance.
        schedule: of the attack.
        together: candidates crafted in one round, as one stack on the same mini-batches. The bank
            depends on it, as on the seed.
        resume: file that holds the state after each round, and from which an interrupted search
            goes on.
        on_round: told of the bank after every round.
        on_step: told of every attack step.

    Raises:
        InvalidArgumentError: `together` is below 1.
        DataError: fewer than two candidates fool the target at all.
    """
    if together < 1:
        raise InvalidArgumentError(f"together is {together}; expected at least 1 candidate.")
    criteria = criteria or BankCriteria()
    clean = predict(classifier, judging)
    state = _Search.restore(resume, crafting.shape)
    while state.open(criteria):
        generator = generator_for(seed, "bank", state.candidates)
        classes = [_random_class(len(crafting.class_names), generator) for _ in range(together)]
        subset = torch.randperm(len(crafting), generator=generator)[:CRAFTING_SUBSET]
        candidates = stochastic_gradient_uaps(
            classifier,
            held_in_memory(Subset(crafting, subset), device=judging.device),
            classes,
            norm=norm,
            epsilon=epsilon,
            generator=generator,
            away_from=state.accepted,
            schedule=schedule,
            on_step=on_step,
        )
        for candidate in candidates.cpu():
            if state.open(criteria):
                rate = fooling_rate(clean, predict(classifier, judging, candidate))
                state = state.judge(candidate, rate, criteria, judged_on=len(judging))
        if resume is not None:
            state.save(resume)
        if on_round is not None:
            on_round(state.bank(norm, epsilon, criteria))
    bank = state.bank(norm, epsilon, criteria).shuffled(generator_for(seed, "held out"))
    if len(bank.perturbations) < 2:
        raise DataError(
            f"After {bank.candidates} candidates no two different perturbations of {norm} norm "
            f"{epsilon:g} were found. Allow a larger epsilon, or more crafting pictures."
        )
    return bank


def _random_class(classes: int, generator: torch.Generator) -> int | None:
    targeted = float(torch.rand(1, generator=generator)) < TARGETED_SHARE
    chosen = int(torch.randint(classes, (1,), generator=generator))
    return chosen if targeted else None


@final
@dataclass(frozen=True)
class _Search:
    """State of a bank search after some candidates: accepted ones, and the best of the others."""

    accepted: Tensor
    rates: tuple[float, ...]
    weaker: Tensor
    weaker_rates: tuple[float, ...]
    candidates: int = 0
    rejected_fooling: int = 0
    rejected_cosine: int = 0

    def open(self, criteria: BankCriteria) -> bool:
        wanting = len(self.accepted) < criteria.members
        return wanting and self.candidates < criteria.most_candidates

    def judge(
        self, candidate: Tensor, rate: float, criteria: BankCriteria, *, judged_on: int
    ) -> "_Search":
        wish = criteria.least_fooling
        bar = min(1.0, wish + 2 * math.sqrt(wish * (1 - wish) / judged_on))
        counted = replace(self, candidates=self.candidates + 1)
        joined = torch.cat([self.accepted, candidate[None]])
        if largest_cosine(joined) > criteria.most_cosine:
            return replace(counted, rejected_cosine=self.rejected_cosine + 1)
        if rate < bar:
            return replace(
                counted,
                rejected_fooling=self.rejected_fooling + 1,
                weaker=torch.cat([self.weaker, candidate[None]]),
                weaker_rates=(*self.weaker_rates, rate),
            )
        return replace(counted, accepted=joined, rates=(*self.rates, rate))

    def bank(self, norm: Norm, epsilon: float, criteria: BankCriteria) -> Bank:
        """The bank as it stands; where too few were accepted, filled up with the strongest rest."""
        perturbations, rates = self.accepted, self.rates
        missing = criteria.members - len(perturbations)
        relaxed = not self.open(criteria) and missing > 0
        if relaxed:
            fooling = [index for index, rate in enumerate(self.weaker_rates) if rate > 0]
            order = sorted(fooling, key=lambda index: -self.weaker_rates[index])
            for index in order:
                joined = torch.cat([perturbations, self.weaker[index][None]])
                if len(perturbations) < criteria.members and (
                    largest_cosine(joined) <= criteria.most_cosine
                ):
                    perturbations, rates = joined, (*rates, self.weaker_rates[index])
        share = criteria.held_out * len(perturbations) // criteria.members
        held_out = min(criteria.held_out, max(1, share))
        return Bank(
            perturbations=perturbations,
            fooling_rates=rates,
            norm=norm,
            epsilon=epsilon,
            candidates=self.candidates,
            rejected_fooling=self.rejected_fooling,
            rejected_cosine=self.rejected_cosine,
            relaxed=relaxed,
            held_out=held_out,
        )

    def save(self, path: Path) -> None:
        save_tensors(
            path,
            {"accepted": self.accepted, "weaker": self.weaker},
            {
                "rates": list(self.rates),
                "weaker_rates": list(self.weaker_rates),
                "counts": [self.candidates, self.rejected_fooling, self.rejected_cosine],
            },
        )

    @classmethod
    def restore(cls, path: Path | None, shape: tuple[int, int, int]) -> "_Search":
        nothing = torch.zeros(0, *shape)
        if path is None or not path.exists():
            return cls(nothing, (), nothing, ())
        tensors, metadata = load_tensors(path)
        return cls(
            tensors["accepted"],
            tuple(metadata["rates"]),
            tensors["weaker"],
            tuple(metadata["weaker_rates"]),
            *metadata["counts"],
        )
