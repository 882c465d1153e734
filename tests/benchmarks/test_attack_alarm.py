"""The simulated alarm is the alarm, and what was published keeps what it promises."""

import numpy as np
import pytest

from benchmarks import attack_alarm
from benchmarks.alarm_streams import BETWEEN, after_gap, delays_of, run_lengths
from prn_guard.files import read_json
from prn_guard.serve.alarm import AttackAlarm, clean_share_bound, likelihood_ratios
from tests.tolerances import EVIDENCE, assert_close

RATIOS = tuple(map(np.array, likelihood_ratios(clean_share_bound(0.01, 5000))))


def new_alarm() -> AttackAlarm:
    return AttackAlarm(
        false_positive_rate=0.01, calibration_pictures=5000, pictures_between_false_alarms=BETWEEN
    )


def test_evidence_after_a_gap_is_that_of_the_alarm() -> None:
    gaps = np.random.default_rng(0).geometric(0.03, 12) - 1
    alarm, evidence = new_alarm(), np.zeros((1, len(RATIOS[0])))
    for gap in gaps:
        alarm.observe([False] * int(gap) + [True])
        evidence = after_gap(evidence, np.array([gap]), *RATIOS)
        assert_close(np.log10(1 + evidence.mean()), alarm.state.statistic, EVIDENCE)


def test_without_chance_lengths_and_delays_are_those_of_the_alarm() -> None:
    alarm, needed = new_alarm(), 1
    while not alarm.observe([True]):
        needed += 1
    rng = np.random.default_rng(0)
    assert run_lengths(np.ones(3), RATIOS, np.inf, rng).tolist() == [needed] * 3
    assert run_lengths(np.ones(3), RATIOS, needed - 1, rng).tolist() == [np.inf] * 3
    later = new_alarm()
    later.observe([False] * 5000)
    needed = 1
    while not later.observe([True]):
        needed += 1
    assert delays_of(0.0, 1.0, RATIOS, 3, rng).tolist() == [needed] * 3


def test_published_false_alarms_are_as_rare_as_stated() -> None:
    result = read_json(attack_alarm.RESULT)
    assert result["requests"] == 100_000
    for row in result["clean"]:
        assert row["interval"][1] <= row["stated"]
    for row in result["run_lengths"]:
        assert row["mean"] - 3 * row["standard_error"] >= row["stated"]


@pytest.mark.parametrize(("share", "most"), [(0.5, 40), (0.05, 2600)])
def test_published_attacks_are_found(share: float, most: float) -> None:
    rows = read_json(attack_alarm.RESULT)["delays"]
    found = [row["p95"] for row in rows if row["attacked_share"] == share]
    assert len(found) == 8
    assert max(found) <= most
