"""Sets of perturbations that a transfer measurement reports on, each with what is known of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import Norm
from training.attacks.registry import METHODS
from training.evaluation.survey import Entry

BANK_FAMILY: Final = METHODS["sign-pgd"].family
"""The family of the bank's perturbations: what every guard is fitted on."""
HELD_OUT: Final = "held-out"

Kind = Literal["held-out", "family", "elsewhere", "other norm"]


@final
@dataclass(frozen=True)
class Group:
    """Perturbations that are reported in one row."""

    name: str
    kind: Kind
    family: str | None
    """None where it is not known, as of files."""
    norm: Norm
    """In which they are bounded."""
    stack: Tensor
    """`(P, C, H, W)` on [0, 1] pixels, at its own size."""

    @property
    def digest(self) -> str:
        """What tells it from another group of its name."""
        pixels = self.stack.detach().cpu().contiguous().float().numpy().tobytes()
        return f"{self.kind}, {self.norm}, {hashlib.sha256(pixels).hexdigest()}"


def groups_of(
    norm: Norm,
    *,
    held_out: Tensor,
    families: Sequence[Entry],
    crafted: Mapping[str, Tensor],
    elsewhere: Mapping[str, Tensor],
    other_norm: Mapping[str, Tensor],
) -> list[Group]:
    """One group for the held-out perturbations, and one for each family and each named stack.

    Raises:
        InvalidArgumentError: two groups of one name, or a stack that is none or empty.
    """
    other: Norm = "l2" if norm == "linf" else "linf"
    groups = [Group(HELD_OUT, "held-out", BANK_FAMILY, norm, held_out)]
    groups += [
        Group(one.name, "family", METHODS[one.method].family, norm, crafted[one.name])
        for one in families
    ]
    groups += [Group(name, "elsewhere", None, norm, stack) for name, stack in elsewhere.items()]
    groups += [Group(name, "other norm", None, other, stack) for name, stack in other_norm.items()]
    names = [one.name for one in groups]
    for group in groups:
        if names.count(group.name) > 1:
            raise InvalidArgumentError(
                f"Two sets of perturbations are called {group.name!r}; give each its own name."
            )
        if group.stack.ndim != 4 or not len(group.stack):
            raise InvalidArgumentError(
                f"The perturbations {group.name!r} have shape {tuple(group.stack.shape)}; expected "
                "(perturbations, channels, height, width), at least one."
            )
    return groups
