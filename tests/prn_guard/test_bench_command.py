"""`prn-guard bench` on a tiny guard: what it measures, writes and refuses."""

import json
import sys

import numpy as np
import pytest

from prn_guard import cli
from prn_guard.bench_sessions import cpu_name, open_both, runs_of
from tests.commands import assert_refused, runner
from tests.tiny_guard import bare_graph, write_guard


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(cli.main, "prn-guard", monkeypatch, capsys)


def test_both_get_the_same_pictures_each_in_its_own_form(tmp_path):
    both = open_both(
        write_guard(tmp_path / "g", bare=bare_graph()), bare=None, device="cpu", threads=1
    )
    guarded, bare = runs_of(both, [2, 5], seed=3)
    rgb = guarded(5)[0]  # means of the pixels, 0..255
    expected = (rgb[:, ::-1] - np.array([10, 20, 30])) / np.array([2, 4, 5])
    np.testing.assert_allclose(bare(5)[0], expected, rtol=1e-5)
    assert len(bare(2)[0]) == len(guarded(2)[0]) == 2


def test_the_command_writes_figures_and_facts_and_a_plot(run, tmp_path):
    folder, out = write_guard(tmp_path / "g", bare=bare_graph()), tmp_path / "out.json"
    ended = run("bench", folder, "--batch-sizes", "4,1", "--seconds", 0, "--threads", 1,
                "--json", out, "--plot", tmp_path / "p.svg")  # fmt: skip
    assert ended.code == 0, ended
    result = json.loads(out.read_text())
    assert [row["batch_size"] for row in result["results"]] == [1, 4]
    assert result["facts"]["provider"] == "CPUExecutionProvider"
    assert result["facts"]["threads"] == 1
    assert "x bare" in ended.out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_without_a_bare_classifier_both_ways_are_named(run, tmp_path):
    assert_refused(run("bench", write_guard(tmp_path / "g")), "--with-bare", "--bare FILE")


def test_another_classifier_than_the_wrapped_one_is_refused(run, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(bare_graph(batch=1))
    ended = run("bench", write_guard(tmp_path / "g"), "--bare", other)
    assert_refused(ended, "is not the classifier inside the guard")


def test_a_fixed_batch_axis_allows_that_size_only(run, tmp_path):
    fixed = bare_graph(batch=4)
    (tmp_path / "fixed.onnx").write_bytes(fixed)
    folder = write_guard(tmp_path / "g", wrapped=fixed)
    command = ["bench", folder, "--bare", tmp_path / "fixed.onnx", "--seconds", 0]
    assert_refused(run(*command), "fixed at 4", "--batch-sizes 4")
    assert run(*command, "--batch-sizes", 4).code == 0


@pytest.mark.parametrize("sizes", ["", "1,x", "0,4"])
def test_batch_sizes_that_are_none_are_refused(run, tmp_path, sizes):
    assert_refused(run("bench", tmp_path, "--batch-sizes", sizes), "expected whole numbers")


def test_a_plot_without_matplotlib_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.svg"), "prn-guard[reports]")
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.gif"), ".svg, .png or .pdf")


def test_the_cpu_is_unknown_where_nothing_states_it(tmp_path):
    assert cpu_name(tmp_path / "none") == "unknown"
    (tmp_path / "info").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name(tmp_path / "info") == "Some CPU @ 2 GHz"
