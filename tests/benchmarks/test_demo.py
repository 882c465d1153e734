"""What README.md publishes is what the result file holds, and is rendered from it."""

import copy

import pytest

from benchmarks import demo
from benchmarks.publishing import block
from prn_guard.files import read_json

pytestmark = pytest.mark.skipif(
    not demo.RESULT.exists(), reason="no figures are published: run benchmarks/demo.py"
)


def test_the_readme_shows_the_result_file() -> None:
    assert block(demo.README, "demo") == demo.render(read_json(demo.RESULT))


def test_the_spread_is_over_seeds_and_the_value_of_the_first() -> None:
    result = read_json(demo.RESULT)
    first = result["runs"][0]
    other = copy.deepcopy(first)
    first["metrics"]["clean_accuracy"]["value"] = 0.9
    other["metrics"]["clean_accuracy"]["value"] = 0.85
    rendered = demo.render({**result, "runs": [first, other]})
    (row,) = [line for line in rendered.splitlines() if "clean accuracy, bare" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "90.00"
    assert cells[4] == "85.00 to 90.00"


def test_the_result_file_was_measured_under_several_seeds() -> None:
    runs = read_json(demo.RESULT)["runs"]
    assert len({run["seed"] for run in runs}) == len(runs) >= 2
