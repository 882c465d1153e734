"""The benchmarks of serving in a small form: a real server process, faults, load, memory."""

import asyncio

import numpy as np
import pytest

from benchmarks import serving_misdeeds
from benchmarks.serving_arrivals import arrivals, queue_alone
from benchmarks.serving_bare import BareLoop
from benchmarks.serving_faults import FAULTS, POISON, USUAL, Fault, commit_fault, jump, stopped
from benchmarks.serving_load import measure_load, measure_round
from benchmarks.serving_process import PROBED, served
from benchmarks.serving_ray import tiny_folder
from benchmarks.serving_schema import fuzz, fuzz_binary
from benchmarks.serving_soak import soak

MIB = 2**20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def folder(place):
    return tiny_folder(place)


@pytest.fixture(scope="module")
def server(place, folder):
    config = place / "settings.toml"
    config.write_text(USUAL.replace("1.0", "0.5"))
    flags = ("--config", config, "--poison", POISON, "--batches", place / "batches")
    with served(folder, *flags, command=PROBED) as running:
        yield running


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_others_are_answered_during_what_clients_do(server, fault):
    row = asyncio.run(commit_fault(server, fault, around=10))
    assert row["passed"], row


def test_others_are_answered_when_the_engine_fails_or_the_clock_jumps(server):
    poisoned = Fault("worker exception", serving_misdeeds.poison, ("10 x 500",))
    for fault in (poisoned, jump(server)):
        row = asyncio.run(commit_fault(server, fault, around=10))
        assert row["passed"], row


def test_schema_and_binary_header_under_fuzz_have_no_500(server):
    found = fuzz(server.port, 2)
    assert found["unexpected"] == []
    assert found["operations"] >= 12
    assert {"200", "400"} <= found["statuses"].keys()
    binary = asyncio.run(fuzz_binary(server.port, 200))
    assert binary["unexpected"] == []
    assert {"200", "400"} <= binary["statuses"].keys()


def test_load_is_answered_rightly_and_measured(server, place, folder):
    bare, notes = BareLoop(folder), place / "batches"
    found = measure_round(server, bare, notes, 4, 0.5, warm_up=0.1)
    batches = {int(size): count for size, count in found["batches"].items()}
    ran = sum(size * count for size, count in batches.items())
    # Those in flight at either end of the window are counted by one side only.
    assert abs(ran - found["server_pictures_per_second"] * found["seconds"]) <= 2 * 4
    assert 0 < found["session_busy"] < 1
    row = measure_load(server, bare, notes, "Poisson", 0.5, 200.0, 0.5)
    assert row["requests"] == 50
    assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]


def test_memory_stays_over_many_requests(server):
    result = asyncio.run(soak(server, 2000))
    sizes = [mark["resident_bytes"] for mark in result["marks"]]
    assert result["marks"][-1]["requests"] == 2000
    assert sizes[-1] - sizes[len(sizes) // 2] < 2 * MIB


def test_a_signal_under_load_loses_nothing(place):
    row = stopped(place / "stopped")
    assert row["passed"], row


def test_a_queue_by_hand():
    due = np.array([0.0, 0.125, 0.25, 4.0, 4.5])
    spent = queue_alone(due, 1.0, 0.5, max_batch=3, delay=0.25)
    # Three begin at 0.25 and end at 2.75; one begins at 4.25 and ends at 5.75, then the last.
    assert spent.tolist() == [2.75, 2.625, 2.5, 1.75, 2.75]
    alone = queue_alone(due, 1.0, 0.5, max_batch=1, delay=0.0)
    assert alone.tolist() == [1.5, 2.875, 4.25, 2.0, 3.0]


def test_cameras_are_regular_and_poisson_is_not():
    cameras = arrivals("cameras", 32.0, 4.0)  # 16 of them, each every half second
    assert len(cameras) == 16 * 8
    np.testing.assert_array_equal(np.round(cameras[16:] - cameras[:-16], 12), 0.5)
    poisson = arrivals("Poisson", 100.0, 200.0)
    gaps = np.diff(poisson)
    assert len(poisson) == 20_000
    assert 0.95 < gaps.mean() * 100 < 1.05  # seven standard errors
    assert 0.95 < gaps.std() / gaps.mean() < 1.05
