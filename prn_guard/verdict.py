"""The guard's answer for a batch of pictures."""

from dataclasses import dataclass, fields
from typing import Self, final

import numpy as np
import numpy.typing as npt


@final
@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What the guard says about B pictures over K classes; row `i` belongs to picture `i`."""

    label: npt.NDArray[np.int64]
    """`(B,)` int64 in `[0, K)`: the class with the highest logit."""
    logits: npt.NDArray[np.float32]
    """`(B, K)` float32, finite: of the rectified picture where flagged, else of the bare one."""
    score: npt.NDArray[np.float32]
    """`(B,)` float32, finite: higher is more suspicious."""
    flagged: npt.NDArray[np.bool_]
    """`(B,)` bool: `score > threshold`."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits, `(B, K)` float64 in [0, 1], rows summing to 1."""
        logits = self.logits.astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)

    def first(self, count: int) -> Self:
        """The verdict on the first `count` pictures."""
        if count == len(self):
            return self
        return type(self)(**{f.name: getattr(self, f.name)[:count] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """One verdict over the pictures of all `parts` (at least one), in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """A verdict, and what the guard made of the pictures to reach it."""

    verdict: Verdict
    rectified: npt.NDArray[np.float32] | None
    """`(B, H, W, C)` float32 in [0, 1], RGB or gray, of every picture, flagged or not; None where
    the graph does not answer with it."""

    def first(self, count: int) -> Self:
        """What belongs to the first `count` pictures."""
        rectified = None if self.rectified is None else self.rectified[:count]
        return type(self)(self.verdict.first(count), rectified)

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """One examination of the pictures of all `parts` (at least one, of one graph), in order."""
        verdict = Verdict.concatenate([part.verdict for part in parts])
        pictures = [part.rectified for part in parts if part.rectified is not None]
        return cls(verdict, np.concatenate(pictures) if pictures else None)
