"""What was measured of serving, as published."""

from benchmarks import serving_faults, serving_ray, serving_soak
from prn_guard.files import read_json


def test_every_published_fault_was_survived():
    result = read_json(serving_faults.RESULT)
    assert len(result["faults"]) == 14
    for row in result["faults"]:
        others = row["others"]
        assert row["passed"], row
        assert others["right"] >= 100
        assert others["wrong"] == others["failed"] == others["lost"] == 0
    assert result["schema"]["unexpected"] == result["binary"]["unexpected"] == []


def test_the_published_memory_is_flat():
    result = read_json(serving_soak.RESULT)
    assert result["marks"][-1]["requests"] == result["requests"] == 100_000
    sizes = [mark["resident_bytes"] for mark in result["marks"]]
    assert max(sizes[10:]) - min(sizes[10:]) < 2 * 2**20
    assert result["slope_bytes_per_request"] < 20


def test_published_answers_on_ray_are_those_without():
    result = read_json(serving_ray.RESULT)
    assert result["answers_equal"] is True
    assert len(result["pictures_by_replica"]) == 2
    assert sum(result["pictures_by_replica"]) == result["requests"] + 8 * serving_ray.PICTURES
