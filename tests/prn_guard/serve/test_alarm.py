"""The attack alarm against its definition, SciPy's Beta, and its promise by exact enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.alarm import (
    ALTERNATIVES,
    CONFIDENCE,
    AttackAlarm,
    clean_share_bound,
    likelihood_ratios,
)
from tests.reference.attack_alarm import evidence
from tests.tolerances import EVIDENCE, assert_close
from training.guard.fit_detector import conformal_rank


def new_alarm(rate=0.01, pictures=5000, between=1e7, window=1000):
    return AttackAlarm(
        false_positive_rate=rate,
        calibration_pictures=pictures,
        pictures_between_false_alarms=between,
        window=window,
    )


@pytest.mark.parametrize(
    ("rate", "pictures"),
    [(0.01, 99), (0.01, 500), (0.01, 5000), (0.05, 333), (0.5, 1), (0.29, 100), (0.001, 100_000)],
)
def test_the_clean_share_is_the_quantile_of_the_calibrated_rate(rate, pictures):
    rank = conformal_rank(pictures, rate)
    wanted = beta.ppf(CONFIDENCE, pictures + 1 - rank, rank)
    assert_close(clean_share_bound(rate, pictures), wanted, EVIDENCE)
    half = beta.ppf(0.5, pictures + 1 - rank, rank)
    assert_close(clean_share_bound(rate, pictures, confidence=0.5), half, EVIDENCE)


def test_the_bound_holds_for_as_many_guards_as_stated():
    rng = np.random.default_rng(0)
    rank = conformal_rank(200, 0.05)
    thresholds = np.sort(rng.random((40_000, 200)), axis=1)[:, rank - 1]
    bound = clean_share_bound(0.05, 200, confidence=0.99)
    share = (1 - thresholds > bound).mean()  # of uniform scores, that above the threshold
    assert abs(share - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 40_000)


def test_ratios_are_those_of_shares_evenly_spaced_in_log_odds():
    unflagged, flagged = map(np.array, likelihood_ratios(0.02))
    shares = flagged * 0.02
    assert_close(unflagged, (1 - shares) / 0.98, EVIDENCE)
    odds = np.log(np.concatenate([[0.02], shares]) / (1 - np.concatenate([[0.02], shares])))
    assert_close(np.diff(odds), np.full(ALTERNATIVES, odds[1] - odds[0]), EVIDENCE)
    assert len(shares) == ALTERNATIVES
    assert_close(unflagged[-1], 0.02, EVIDENCE)


@pytest.mark.parametrize("seed", range(3))
def test_the_statistic_is_the_sum_over_every_start(seed):
    flags = np.random.default_rng(seed).random(120) < 0.03
    alarm = new_alarm(between=1e15)
    bound = clean_share_bound(0.01, 5000)
    shares = np.array(likelihood_ratios(bound)[1]) * bound
    wanted = np.log10(1 + evidence(flags, bound, shares))
    found = []
    for flag in flags:
        assert not alarm.observe([flag])
        found.append(alarm.state.statistic)
    assert_close(found, wanted, EVIDENCE)


def test_pictures_together_count_as_one_by_one():
    flags = np.random.default_rng(5).random(3000) < 0.05
    apart, together = new_alarm(), new_alarm()
    raised = [apart.observe([flag]) for flag in flags]
    assert sum(raised) == 1
    assert together.observe(flags)
    assert together.state == apart.state


@pytest.mark.parametrize("strategy", ["always", "after a flag", "after none", "in turn"])
def test_no_dependence_that_keeps_the_rate_breaks_the_promise(strategy):
    """Every sequence of 10 flags, with its chance under clean traffic that depends on the past."""
    length, between = 10, 30.0
    bound = clean_share_bound(0.2, 200)

    def chance(past):
        last = past[-1] if past else False
        keeps = {
            "always": True,
            "after a flag": last,
            "after none": not last,
            "in turn": len(past) % 2 == 0,
        }
        return bound if keeps[strategy] else bound / 7

    raised, time, evidence_then = 0.0, 0.0, 0.0
    for flags in itertools.product((False, True), repeat=length):
        weight = 1.0
        for place, flag in enumerate(flags):
            p = chance(flags[:place])
            weight *= p if flag else 1 - p
        alarm = new_alarm(rate=0.2, pictures=200, between=between)
        ends = length
        for place, flag in enumerate(flags, start=1):
            if alarm.observe([flag]):
                ends = place
                break
        raised += weight * alarm.state.raised
        time += weight * ends
        evidence_then += weight * (10**alarm.state.statistic - 1)
    assert evidence_then <= time + 1e-9
    assert 0 < raised <= time / between
    if strategy == "always":  # the ratios' means are exactly 1 then
        assert_close(evidence_then, time, EVIDENCE)


def test_an_alarm_is_raised_where_the_statistic_reaches_the_threshold_and_then_rests():
    alarm = new_alarm(between=1000.0)
    state = alarm.state
    assert (state.statistic, state.flagged_share, state.window, state.seen) == (0, 0, 0, 0)
    assert_close(state.threshold, math.log10(1001), EVIDENCE)
    while not alarm.observe([True]):
        assert alarm.state.statistic < state.threshold
    raised = alarm.state
    assert raised.raised
    assert raised.alarms == 1
    assert raised.statistic >= raised.threshold
    assert not alarm.observe([True] * 5000)  # it was raised already
    later = alarm.state
    assert later.raised
    assert later.statistic == raised.statistic
    assert later.seen == raised.seen + 5000
    assert later.flagged_share == 1.0


def test_an_acknowledged_alarm_starts_again_from_nothing():
    alarm, fresh = new_alarm(), new_alarm()
    assert alarm.observe([True] * 100)
    alarm.acknowledge()
    assert not alarm.state.raised
    assert alarm.state.statistic == 0
    for _ in range(100):
        again = fresh.observe([True])
        assert alarm.observe([True]) == again
        assert alarm.state.statistic == fresh.state.statistic
        if again:
            break
    assert alarm.state.alarms == 2


def test_it_recovers_after_a_whole_block_without_more_flags_than_calibrated():
    alarm = new_alarm(rate=0.02, pictures=5000, window=100)  # a block is 10 / 0.02 = 500
    while not alarm.observe([True]):
        pass
    alarm.observe([True] * 11 + [False] * 489)  # eleven are one too many
    assert alarm.state.raised
    alarm.observe([True] * 10 + [False] * 489)
    assert alarm.state.raised
    assert not alarm.observe([False])
    assert not alarm.state.raised
    assert alarm.state.statistic == 0
    assert alarm.state.alarms == 1


def test_the_share_is_of_the_last_window():
    flags = np.random.default_rng(2).random(500) < 0.2
    alarm = new_alarm(window=37)
    for end in range(1, len(flags) + 1):
        alarm.observe(flags[end - 1 : end])
        seen = flags[max(end - 37, 0) : end]
        assert alarm.state.flagged_share == seen.sum() / len(seen)
        assert alarm.state.window == len(seen)


def test_long_clean_traffic_stays_finite_and_quiet():
    alarm = new_alarm()
    assert not alarm.observe([False] * 300_000)
    still = 1 / (1 - np.array(likelihood_ratios(alarm.state.clean_share)[0])) - 1
    assert_close(alarm.state.statistic, math.log10(1 + still.mean()), EVIDENCE)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"rate": 0.0}, "between 0 and 1"),
        ({"rate": 1.0}, "between 0 and 1"),
        ({"rate": float("nan")}, "between 0 and 1"),
        ({"rate": 0.01, "pictures": 98}, "98 calibration pictures"),
        ({"between": 0.5}, "from 1 to 1e"),
        ({"between": float("nan")}, "from 1 to 1e"),
        ({"between": float("inf")}, "from 1 to 1e"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(wrong, match):
    with pytest.raises(InvalidArgumentError, match=match):
        new_alarm(**wrong)
