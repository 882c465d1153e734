"""What docs/benchmarks.md shows is what the result files hold."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    attack_alarm,
    attack_banks,
    attack_memory,
    attack_speed,
    graph_parity,
    guards_cifar10,
    guards_rates,
    hardening_cifar10,
    hardening_cost,
    hardening_lenet,
    hardening_mnist,
    jacobian_penalty,
    latency,
    serving_faults,
    serving_load,
    serving_ray,
    serving_soak,
    universal_attacks,
)
from benchmarks.publishing import block, publish
from prn_guard.errors import DataError
from prn_guard.files import read_json


def test_latency_is_shown_as_measured() -> None:
    result = read_json(latency.RESULTS / "latency.json")
    assert block(latency.PAGE, "latency") == latency.render(result)


def test_parity_is_shown_as_measured() -> None:
    shown = block(graph_parity.PAGE, "graph_parity")
    assert shown == graph_parity.render(read_json(graph_parity.RESULT))


@pytest.mark.parametrize(
    "benchmark",
    [
        universal_attacks, attack_banks, attack_speed, attack_memory, hardening_lenet,
        hardening_mnist, hardening_cifar10, hardening_cost, jacobian_penalty, attack_alarm,
        serving_load, serving_faults, serving_soak, serving_ray, guards_cifar10, guards_rates,
    ],
)  # fmt: skip
def test_tables_are_shown_as_measured(benchmark: Any) -> None:
    name = benchmark.__name__.rpartition(".")[2]
    assert block(benchmark.PAGE, name) == benchmark.render(read_json(benchmark.RESULT))


def test_published_graphs_decide_as_the_modules_do() -> None:
    rows = read_json(graph_parity.RESULT)["rows"]
    assert len(rows) == 5
    for name, (full, half) in rows.items():
        assert full["pictures"] >= 2000, name
        assert full["share_inside"] <= 0.005, name
        assert all(full["passed_through_bit_equal"].values()), name
        for row in (full, half):
            assert row["label_mismatches"] == row["flag_mismatches"] == 0, name
            assert row["unflagged_bit_equal"], name
            assert row["nodes_without_cuda_kernel"] == [], name


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = ("<!-- x figures: written by benchmarks/x.py -->\n", "<!-- end of x figures -->\n")
    page.write_text(f"before\n{marks[0]}old\n{marks[1]}after old\n")
    publish(page, "x", "new\n")
    assert page.read_text() == f"before\n{marks[0]}new\n{marks[1]}after old\n"
    assert block(page, "x") == "new\n"


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(DataError, match="has no lines"):
        publish(page, "x", "new\n")
