"""Protocols A and B on answers made by hand, where every figure can be worked out on paper."""

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from prn_guard.errors import DataError
from tests.tolerances import FIGURE, assert_close
from training.evaluation import metrics
from training.evaluation.outcomes import Answers
from training.evaluation.protocols import apart, protocol, under

MANY = 4000
RIGHT, WRONG = 0, 1


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    # The intervals are tested with the metrics; here they would take most of the time.
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


def _answers(
    bare: ArrayLike, rectified: ArrayLike, guarded: ArrayLike, flagged: ArrayLike
) -> Answers:
    """Answers of pictures whose true label is `RIGHT`, from one value or one per picture."""
    count = max(np.size(part) for part in (bare, rectified, guarded, flagged))
    columns = [np.broadcast_to(np.asarray(part), count) for part in (bare, rectified, guarded)]
    return Answers(
        labels=np.full(count, RIGHT),
        bare=columns[0],
        rectified=columns[1],
        guarded=columns[2],
        scores=np.zeros(count),
        flagged=np.broadcast_to(np.asarray(flagged, dtype=bool), count),
    )


def _four_standard_errors(share: float, count: int) -> float:
    return 4 * math.sqrt(share * (1 - share) / count)


EVERYONE = np.ones(MANY, dtype=bool)
HALF_WRONG = np.arange(MANY) % 2


def test_clean_and_perturbed_apart_by_hand() -> None:
    clean = _answers([0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1])
    first = _answers([1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1])
    second = _answers([0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1])
    figures = apart(clean, [first, second])
    expected = {
        "clean_accuracy": 3 / 4,
        "guarded_clean_accuracy": 1.0,
        "rectified_clean_accuracy": 2 / 4,
        "false_positive_rate": 1 / 4,
        "undefended_perturbed_accuracy": 2 / 8,
        "guarded_perturbed_accuracy": 4 / 8,
        "rectified_perturbed_accuracy": 6 / 8,
        # Against the clean prediction of the bare target, 0 0 0 1, not against the truth.
        "undefended_fooling_rate": (3 + 3) / 8,
        "guarded_fooling_rate": (2 + 0) / 8,
        "perturbed_flagged_rate": 7 / 8,
    }
    assert {name: figure["value"] for name, figure in figures.items()} == expected
    assert {figure["n"] for figure in figures.values()} == {4}
    assert figures.items() >= under(clean, [first, second]).items()


def test_half_of_the_pictures_are_perturbed() -> None:
    clean = _answers(np.zeros(MANY, int), 0, 0, 0)
    found = protocol(clean, [clean], chosen=EVERYONE, seed=0)
    assert found["pictures"] == found["detection_rate"]["n"] == MANY
    assert abs(found["prn_gain"]["n"] / MANY - 0.5) < _four_standard_errors(0.5, MANY)
    # Nothing is ever flagged, so the detector is right on the clean half alone.
    assert_close(found["detection_rate"]["value"], 1 - found["prn_gain"]["n"] / MANY, FIGURE)
    everything = _answers(np.zeros(MANY, int), 0, 0, 1)
    other = protocol(everything, [everything], chosen=EVERYONE, seed=0)
    assert_close(other["detection_rate"]["value"], other["prn_gain"]["n"] / MANY, FIGURE)


def test_a_perfect_guard_before_a_half_right_target() -> None:
    """Clean, the target gets every second picture right; perturbed none; rectified every one."""
    clean = _answers(HALF_WRONG, 0, 0, 0)
    perturbed = _answers(1, 0, 0, np.ones(MANY))
    a = protocol(clean, [perturbed], chosen=EVERYONE, seed=1)
    assert (a["pictures"], a["prn_gain"]["value"], a["detection_rate"]["value"]) == (MANY, 1, 1)
    assert (a["prn_restoration"]["value"], a["defense_rate"]["value"]) == (2, 2)
    b = protocol(clean, [perturbed], chosen=HALF_WRONG == 0, seed=1)
    assert (b["pictures"], b["prn_gain"]["value"], b["detection_rate"]["value"]) == (
        MANY // 2,
        1,
        1,
    )
    assert (b["prn_restoration"]["value"], b["defense_rate"]["value"]) == (1, 1)
    # Undefended, protocol B is right exactly where its pictures are clean.
    clean_half = 1 - b["prn_gain"]["n"] / b["pictures"]
    assert_close(b["undefended_rate"]["value"], clean_half, FIGURE)


def test_each_figure_reads_its_own_branch() -> None:
    """Rectified: right when clean. Guarded: right when perturbed. Bare: always right."""
    clean = _answers(np.zeros(MANY, int), 0, 1, 1)
    perturbed = _answers(0, 1, np.zeros(MANY, int), 0)
    found = protocol(clean, [perturbed], chosen=EVERYONE, seed=2)
    share = found["prn_gain"]["n"] / MANY
    assert_close(found["prn_restoration"]["value"], 1 - share, FIGURE)
    assert_close(found["defense_rate"]["value"], share, FIGURE)
    assert found["undefended_rate"]["value"] == 1
    assert found["detection_rate"]["value"] == 0
    assert found["prn_gain"]["value"] < -1e6  # nothing right of what was rectified


@pytest.mark.parametrize("strong", [0, 1, 2])
def test_the_mix_uses_every_perturbation_alike(strong: int) -> None:
    clean = _answers(np.zeros(MANY, int), 0, 0, 0)
    perturbed = [_answers(int(k == strong), 0, np.zeros(MANY, int), 0) for k in range(3)]
    found = protocol(clean, perturbed, chosen=EVERYONE, seed=3)
    assert abs(found["undefended_rate"]["value"] - 5 / 6) < _four_standard_errors(5 / 6, MANY)
    assert abs(found["prn_gain"]["value"] - 1 / 3) < _four_standard_errors(1 / 3, MANY // 2)


def test_the_mix_repeats_under_its_seed() -> None:
    clean, perturbed = _answers(HALF_WRONG, 0, HALF_WRONG, 0), _answers(1, HALF_WRONG, 0, 1)
    first = protocol(clean, [perturbed], chosen=EVERYONE, seed=4)
    assert protocol(clean, [perturbed], chosen=EVERYONE, seed=4) == first
    assert protocol(clean, [perturbed], chosen=EVERYONE, seed=5) != first


def test_no_perturbed_picture_is_refused() -> None:
    clean = _answers(np.ones(9, int), 0, 0, 0)
    with pytest.raises(DataError, match="0 of 9 test pictures"):
        protocol(clean, [clean], chosen=clean.bare == clean.labels, seed=0)
