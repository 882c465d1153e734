"""The suite: every attack on a guard that is tried, by name.

Each combines what is differentiated (`surrogates`), how (rule or family), the loss, a class to
reach and where it starts. The strongest of them is what a guard is judged by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from prn_guard.errors import InvalidArgumentError
from training.attacks.losses import LossName

Method = Literal["sign-pgd", "adam", "sga", "singular-vector", "data-free"]
ASCENTS: Final = frozenset({"sign-pgd", "adam", "sga"})
"""Methods that ascend the loss itself, and grow stronger with steps."""


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack.

    Args:
        name: how results and the command line call it.
        through: what is differentiated, by its name in `ALL_SURROGATES`.
        method: how a step is taken.
        loss: what is ascended; of no meaning for `singular-vector` and `data-free`.
        target: sends pictures to random class number so and so; None drives them from their clean
            prediction.
        evasion: weight of the penalty on scores above the threshold; None has none.
        warm: starts from the held-out perturbation that hurts the guard most, else at random.
    """

    name: str
    through: str
    method: Method = "sign-pgd"
    loss: LossName = "cross_entropy"
    target: int | None = None
    evasion: float | None = None
    warm: bool = False

    def facts(self) -> dict[str, Any]:
        """What a result says of it, as plain JSON values."""
        return {
            "through": self.through,
            "method": self.method,
            "loss": self.loss if self.method in ASCENTS else None,
            "evasion": self.evasion,
            "start": "held-out perturbation" if self.warm else "random",
        }


EVASION_WEIGHTS: Final = (0.1, 1.0, 10.0)
"""Two decades, because the scale of a detector's score is its own: at the least the target's loss
rules, at the greatest the score does."""

SUITE: Final[tuple[Entry, ...]] = (
    Entry(name="expected guard", through="expected guard"),
    Entry(name="expected guard, second start", through="expected guard"),
    Entry(name="expected guard, third start", through="expected guard"),
    Entry(name="expected guard, logit margin", through="expected guard", loss="logit_margin"),
    Entry(name="expected guard, first class", through="expected guard", target=0),
    Entry(name="expected guard, second class", through="expected guard", target=1),
    Entry(name="expected guard, third class", through="expected guard", target=2),
    Entry(name="expected guard, adam", through="expected guard", method="adam"),
    Entry(name="expected guard, sga", through="expected guard", method="sga"),
    Entry(name="expected guard, from held-out", through="expected guard", warm=True),
    Entry(name="wide gate", through="wide gate"),
    Entry(name="rectifier", through="rectifier"),
    Entry(name="rectifier, logit margin", through="rectifier", loss="logit_margin"),
    Entry(name="both branches", through="both branches"),
    Entry(name="soft gate", through="soft gate"),
    *(
        Entry(name=f"evade, weight {weight:g}", through="bare target", evasion=weight)
        for weight in EVASION_WEIGHTS
    ),
    Entry(name="rectifier, singular vector", through="rectifier", method="singular-vector"),
    Entry(name="rectifier, data-free", through="rectifier", method="data-free"),
)

ON_THE_BARE_TARGET: Final[tuple[Entry, ...]] = (
    Entry(name="bare target", through="bare target"),
    Entry(name="bare target, logit margin", through="bare target", loss="logit_margin"),
)
"""Transferred to the guard: white box for the target, blind for the rest."""


def entries_named(names: Sequence[str] | None) -> tuple[Entry, ...]:
    """The entries of the suite of these names, in its order; all of them for None.

    Raises:
        InvalidArgumentError: no name, or a name that no entry has.
    """
    if names is None:
        return SUITE
    known = [entry.name for entry in SUITE]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InvalidArgumentError(
            f"There is no attack {', '.join(map(repr, unknown)) or 'to try'}; choose of: "
            f"{'; '.join(known)}."
        )
    return tuple(entry for entry in SUITE if entry.name in names)
