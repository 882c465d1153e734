"""A part of `benchmarks/fuzz_artifacts.py`, on every run of the suite, under a seed of its own."""

import pytest

from benchmarks.fuzz_artifacts import fuzz, summarise
from benchmarks.fuzz_worker import worker
from benchmarks.mutations import WAYS


def test_damaged_artifacts_are_refused_or_served_correctly(tmp_path):
    rows = fuzz(tmp_path, cases=150, seed=1)
    result = summarise(rows)
    assert result["unexpected"] == []
    assert len(rows) == 150
    assert {case.way for case, _ in rows} == set(WAYS)
    outcomes = {way: {row["outcome"] for case, row in rows if case.way == way} for way in WAYS}
    assert outcomes["as is"] <= {"refused", "served as the original"}
    assert outcomes["signed"] <= {"refused", "served as the original"}
    assert "served" in outcomes["resealed"]  # damage that a digest cannot show was tried
    assert set(result["errors"]) <= {"ArtifactError", "DeviceError"}


def _crash(*_):
    import os

    os.abort()


def _hang(*_):
    import time

    time.sleep(60)


@pytest.mark.parametrize(("misbehave", "said"), [(_crash, "crash"), (_hang, "hang")])
def test_crash_and_hang_are_seen_and_survived(folder, pictures, misbehave, said):
    with worker(pictures, seconds=1.0) as loader:
        assert loader.ask(folder, None)["outcome"] == "served"
        assert loader.ask(Poison(misbehave), None)["outcome"] == said
        assert loader.ask(folder, None)["outcome"] == "served"


class Poison:
    """A folder whose very arrival makes the worker misbehave."""

    def __init__(self, misbehave):
        self._misbehave = misbehave

    def __reduce__(self):
        return self._misbehave, ()
