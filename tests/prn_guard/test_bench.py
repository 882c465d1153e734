"""The measuring itself, on a clock and runs whose times are known."""

import numpy as np
import pytest

from prn_guard.bench import measure, summarise
from prn_guard.errors import InvalidArgumentError


class _Lab:
    """A clock that only the runs move, and the order in which they came."""

    def __init__(self, cost):
        self.now, self.order, self.cost = 0.0, [], cost

    def clock(self):
        return self.now

    def run(self, name):
        def one(size):
            self.now += self.cost(name, size, len(self.order))
            self.order.append((name, size))

        return one

    def measure(self, sizes, **options):
        return measure(self.run("guarded"), self.run("bare"), sizes, clock=self.clock, **options)


def test_quantiles_and_paired_ratio_are_those_of_the_sequence():
    bare = np.arange(1.0, 102.0)
    result = summarise(4, np.stack([3 * bare, bare], axis=1))
    assert (result.bare.median, result.bare.p5, result.bare.p95, result.bare.p99) == (
        51,
        6,
        96,
        100,
    )
    assert result.throughput(result.bare) == 4 / 51
    assert [result.ratio, result.ratio_p5, result.ratio_p95] == pytest.approx([3, 3, 3])
    assert result.rounds == 101


def test_order_alternates_and_warm_up_is_not_counted():
    lab = _Lab(lambda name, _size, step: 100.0 if step < 4 else 2.0 if name == "guarded" else 1.0)
    (result,) = lab.measure([8], least_seconds=0, least_rounds=4, warm_up_rounds=2)
    names = "".join(name[0] for name, _ in lab.order)
    assert names == "gbbg" + "gbbggbbg"
    assert (result.guarded.p99, result.bare.p99, result.rounds) == (2, 1, 4)


def test_what_goes_first_and_what_drifts_cancels():
    # The second of every pair takes twice as long, and all of it slows down by 1 % a run.
    lab = _Lab(lambda _name, _size, step: (1 + step % 2) * 1.01**step)
    (result,) = lab.measure([1], least_seconds=0, least_rounds=20)
    assert result.ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "least", "expected"), [(0, 5, 6), (30, 2, 10), (31, 2, 12), (0, 1, 2)]
)
def test_rounds_reach_both_limits_and_are_even(seconds, least, expected):
    lab = _Lab(lambda name, _size, _step: 2.0 if name == "guarded" else 1.0)
    (result,) = lab.measure([1], least_seconds=seconds, least_rounds=least)
    assert result.rounds == expected


def test_every_batch_size_is_measured_and_reported():
    lab, told = _Lab(lambda _name, size, _step: size * 0.5), []
    results = lab.measure([1, 4], least_seconds=0, least_rounds=2, on_measured=told.append)
    assert [result.bare.median for result in results] == [0.5, 2]
    assert told == results


@pytest.mark.parametrize("sizes", [[], [0], [4, -1]])
def test_useless_batch_sizes_are_refused(sizes):
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        _Lab(lambda *_: 1.0).measure(sizes, least_seconds=0)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_that_is_none_is_refused(seconds):
    with pytest.raises(InvalidArgumentError, match="finite seconds"):
        _Lab(lambda *_: 1.0).measure([1], least_seconds=seconds)
