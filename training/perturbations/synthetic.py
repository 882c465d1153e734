"""Synthetic universal perturbations, walked from a bank of real ones.

Source: PRN paper, section 4.2, Algorithm 1 (linf), and its supplementary material for l2. A walk
takes steps of random length along random members of the bank (scaled to unit l2 norm) until it
reaches the bound; a linf walk is kept if its l2 norm reaches the mean of the bank's.

Departures:
    - The last step overshoots, so a finished walk is scaled back onto the bound exactly.
    - Sign-gradient perturbations sit in the corners of the linf ball. A sum that stops at the first
      value to reach epsilon can never be that dense, and Algorithm 1 as printed then accepts
      nothing (0 of 2,400 walks measured). `clipped_combinations` scales a random positive
      combination up until, clipped to the ball, it has the wanted l2 norm; it leaves the spanned
      orthant by the clipping alone. Four members are combined at a time.
    - `synthesise` measures the acceptance of the walk first and takes the clipped form where the
      walk is accepted less often than `FEWEST_ACCEPTED`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.attacks.norms import Norm, norm_of, project

FEWEST_ACCEPTED = 0.05
"""Below this share of accepted walks, Algorithm 1 is given up for the clipped form."""
TRIAL_WALKS = 200
MAX_ROUNDS = 40
MAX_STEPS = 100_000
ROUNDING = 1e-6
"""A bank wholly in the corners of the ball has the largest l2 norm there is, up to rounding."""
MEMBERS_COMBINED = 4
"""A combination of many members is close to their mean, whatever the weights."""


@dataclass(frozen=True)
class Synthetic:
    """Synthetic perturbations and how they came about."""

    perturbations: Tensor
    """`(count, C, H, W)` float32."""
    form: Literal["algorithm-1", "clipped"]
    tried: int
    accepted: int
    walk_acceptance: float
    """Share of Algorithm 1's trial walks that were accepted, whichever form was taken."""


def synthesise(
    bank: Tensor, count: int, *, norm: Norm, epsilon: float, generator: torch.Generator
) -> Synthetic:
    """Extend `bank` `(P, C, H, W)` by `count` synthetic perturbations of the same ball.

    Raises:
        InvalidArgumentError: an empty bank, or a negative count.
        DataError: neither form is accepted within a bounded number of tries.
    """
    if not len(bank) or count < 0:
        raise InvalidArgumentError(
            f"Synthetic perturbations need a bank of at least one and a count of 0 or more; got a "
            f"bank of {len(bank)} and a count of {count}."
        )
    trial = random_walks(bank, TRIAL_WALKS, norm=norm, epsilon=epsilon, generator=generator)
    kept = trial[accepted(trial, bank, norm=norm)]
    share = len(kept) / TRIAL_WALKS
    form: Literal["algorithm-1", "clipped"] = (
        "algorithm-1" if share >= FEWEST_ACCEPTED else "clipped"
    )
    make = random_walks if form == "algorithm-1" else clipped_combinations
    found: list[Tensor] = []
    tried = accepted_in_all = 0
    for _ in range(MAX_ROUNDS):
        if accepted_in_all >= count:
            break
        walks = make(bank, max(count, TRIAL_WALKS), norm=norm, epsilon=epsilon, generator=generator)
        keep = walks[accepted(walks, bank, norm=norm)]
        found.append(keep)
        tried += len(walks)
        accepted_in_all += len(keep)
    if accepted_in_all < count:
        raise DataError(
            f"Only {accepted_in_all} of {tried} synthetic perturbations reached the bank's mean l2 "
            f"norm; {count} were wanted. The bank's members may be too few or too alike: craft "
            "more of them, or ask for fewer synthetic ones."
        )
    perturbations = torch.cat(found)[:count] if found else bank[:0]
    return Synthetic(perturbations, form, tried, accepted_in_all, share)


def random_walks(
    bank: Tensor, count: int, *, norm: Norm, epsilon: float, generator: torch.Generator
) -> Tensor:
    """`count` walks of Algorithm 1 `(count, C, H, W)`, each on the bound; all walked at once."""
    members = _unit_l2(bank)
    walks = torch.zeros(count, members.shape[1])
    walking = torch.arange(count)
    for _ in range(MAX_STEPS):
        lengths = torch.rand(len(walking), 1, generator=generator) * epsilon
        chosen = torch.randint(len(members), (len(walking),), generator=generator)
        walks[walking] += lengths * members[chosen]
        sizes = _flat_norm(walks[walking], norm)
        walking = walking[sizes < epsilon]
        if not len(walking):
            break
    walks *= epsilon / _flat_norm(walks, norm).clamp(min=epsilon)[:, None]
    return walks.reshape(count, *bank.shape[1:])


def clipped_combinations(
    bank: Tensor, count: int, *, norm: Norm, epsilon: float, generator: torch.Generator
) -> Tensor:
    """`count` random positive combinations `(count, C, H, W)`, scaled up and clipped to the ball.

    The scale is the smallest, by bisection, at which the clipped combination has the mean l2
    norm of the bank; where no scale reaches it the combination stays as dense as it gets.
    """
    members = _unit_l2(bank)
    combined = min(MEMBERS_COMBINED, len(members))
    chosen = torch.rand(count, len(members), generator=generator).topk(combined).indices
    weights = torch.rand(count, combined, generator=generator)
    directions = torch.einsum("nk,nkd->nd", weights, members[chosen])
    directions = directions.reshape(count, *bank.shape[1:])
    directions = directions / norm_of(directions, norm)[:, None, None, None].clamp(min=1e-12)
    wanted = l2_threshold(bank)
    low, high = torch.zeros(count), torch.full((count,), 1e4 * epsilon)
    for _ in range(60):
        middle = (low + high) / 2
        clipped = project(directions * middle[:, None, None, None], norm, epsilon)
        enough = norm_of(clipped, "l2") >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    scaled: Tensor = directions * high[:, None, None, None]
    return project(scaled, norm, epsilon)


def accepted(walks: Tensor, bank: Tensor, *, norm: Norm) -> Tensor:
    """Which of `walks` `(N, C, H, W)` Algorithm 1 keeps, `(N,)` bool: all of them in l2."""
    if norm == "l2":
        return torch.ones(len(walks), dtype=torch.bool)
    long_enough: Tensor = norm_of(walks, "l2") >= l2_threshold(bank)
    return long_enough


def l2_threshold(bank: Tensor) -> Tensor:
    """Mean l2 norm of the bank, a scalar; the bar that a linf walk must reach."""
    mean: Tensor = norm_of(bank, "l2").mean()
    return mean * (1 - ROUNDING)


def _unit_l2(bank: Tensor) -> Tensor:
    flat = bank.flatten(1)
    lengths: Tensor = flat.norm(dim=1, keepdim=True)
    return flat / lengths.clamp(min=1e-12)


def _flat_norm(flat: Tensor, norm: Norm) -> Tensor:
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)
