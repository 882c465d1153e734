"""Which epoch of a hardening is kept."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.hardening.epochs import CLEAN_LOSS, kept_epoch, may_be_kept

Pair = tuple[float, float]
shares = st.integers(0, 40).map(lambda number: number / 200)
"""Steps of half a point, so that ties and pairs one point apart occur."""


def _epochs(pairs: list[Pair]) -> list[dict[str, Any]]:
    return [
        {"epoch": number, "clean": {"value": clean}, "universal": {"value": universal}}
        for number, (clean, universal) in enumerate(pairs, start=1)
    ]


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ([(0.86, 0.43), (0.90, 0.40), (0.915, 0.25), (0.91, 0.34)], 4),
        ([(0.5, 0.5), (0.5, 0.5)], 1),
        ([(0.5, 0.5), (0.505, 0.5)], 2),
        ([(0.9, 0.1), (0.88, 0.9)], 1),
    ],
)
def test_the_most_robust_of_the_nearly_most_accurate_is_kept(pairs: list[Pair], kept: int) -> None:
    assert kept_epoch(_epochs(pairs))["epoch"] == kept


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_what_is_kept_is_within_reach_and_nothing_there_is_better(pairs: list[Pair]) -> None:
    clean, universal = pairs[kept_epoch(_epochs(pairs))["epoch"] - 1]
    most = max(one for one, _ in pairs)
    assert clean >= most - CLEAN_LOSS
    assert universal == max(two for one, two in pairs if one >= most - CLEAN_LOSS)


@given(
    st.lists(st.tuples(shares, shares), min_size=1, max_size=5),
    st.lists(st.tuples(shares, shares), max_size=3),
)
def test_weights_that_were_dropped_are_never_wanted_again(
    before: list[Pair], after: list[Pair]
) -> None:
    held: set[int] = set()
    for count in range(1, len(before) + len(after) + 1):
        so_far = _epochs((before + after)[:count])
        held = (held | {count}) & set(may_be_kept(so_far))
        assert kept_epoch(so_far)["epoch"] in held


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_dropped_is_what_another_epoch_is_at_least_as_good_as(pairs: list[Pair]) -> None:
    candidates = may_be_kept(_epochs(pairs))
    for one, other in itertools.product(range(len(pairs)), repeat=2):
        better = all(b >= a for a, b in zip(pairs[one], pairs[other], strict=True))
        if other != one and better and (pairs[other] != pairs[one] or other < one):
            assert one + 1 not in candidates
