"""The epochs of a hardening: what each was worth, and which one is kept.

The kept one is the most accurate under universal perturbations among those that are nearly as
accurate on clean pictures as the best in that: robustness alone would keep early epochs, which
are robust because they have learned little.
"""

from collections.abc import Sequence
from typing import Any, Final

CLEAN_LOSS: Final = 0.01
"""How much less accurate on clean pictures than the best epoch the kept one may be."""


def kept_epoch(epochs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The epoch to keep.

    Args:
        epochs: at least one; of each its number and the figures `clean` and `universal`.
    """
    least = max(_clean(one) for one in epochs) - CLEAN_LOSS
    # Of equals the first, which is less far from the network as it was.
    return max(
        (one for one in epochs if _clean(one) >= least),
        key=lambda one: (_universal(one), _clean(one)),
    )


def may_be_kept(epochs: Sequence[dict[str, Any]]) -> list[int]:
    """Numbers of the epochs that could be kept yet, whatever comes: no other is better in both."""
    return [
        one["epoch"]
        for place, one in enumerate(epochs)
        if not any(_better(other, one) for other in epochs)
        and not any(_equal(other, one) for other in epochs[:place])
    ]


def _better(other: dict[str, Any], one: dict[str, Any]) -> bool:
    at_least = _clean(other) >= _clean(one) and _universal(other) >= _universal(one)
    return at_least and not _equal(other, one)


def _equal(other: dict[str, Any], one: dict[str, Any]) -> bool:
    return _clean(other) == _clean(one) and _universal(other) == _universal(one)


def _clean(epoch: dict[str, Any]) -> float:
    return float(epoch["clean"]["value"])


def _universal(epoch: dict[str, Any]) -> float:
    return float(epoch["universal"]["value"])
