import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from prn_guard.files import read_json
from tests.training.evaluation.page import Page, rendered
from tests.training.evaluation.sample import (
    examples,
    metrics,
    write_evaluation,
    write_guard,
)
from training.evaluation.pixels import eye_factor
from training.evaluation.report import write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """For tests that only read."""
    folder = tmp_path_factory.mktemp("report")
    write_guard(folder / "guard")
    write_evaluation(folder / "evaluation", metrics(folder / "guard"))
    return rendered(folder / "guard", folder / "evaluation")


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    write_guard(tmp_path / "guard")
    return tmp_path / "guard"


@pytest.fixture
def evaluation(guard: Path) -> Path:
    write_evaluation(guard.parent / "evaluation", metrics(guard))
    return guard.parent / "evaluation"


def figures(of: Any) -> Iterator[dict[str, Any]]:
    if isinstance(of, dict) and set(of) == {"value", "n", "low", "high"}:
        yield of
    elif isinstance(of, dict | list):
        for inner in of.values() if isinstance(of, dict) else of:
            yield from figures(inner)


def test_every_figure_of_the_file_stands_in_the_page(guard: Path, evaluation: Path) -> None:
    page = rendered(guard, evaluation)
    all_figures = list(figures(read_json(evaluation / "metrics.json")))
    assert len(all_figures) > 50
    for one in all_figures:
        low, high = f"{100 * one['low']:.2f}", f"{100 * one['high']:.2f}"
        assert re.search(rf"(?<!\d){100 * one['value']:.2f}(?!\d)", page.text), one
        assert re.search(rf"(?<![\d.]){re.escape(low)} to {re.escape(high)}(?!\d)", page.text), one


@pytest.mark.parametrize(
    "fact",
    [
        "0.9932", "81.27", "93.46",  # detector
        "knows the guard", "one pattern for all", "8 bits", "0.125 (31.88/255)",  # threat
        "77 candidates", "52 fooled too little", "21 were too like", "79.99", "87.65",  # bank
        "form: clipped", "accepted 1.23 % of its walks", "met by every member",
        "A processor, 2 CPUs", "torch 2.14", "torch 2.15", "fit 29, evaluation 17", "4321.5",
        "61.5", "train.tar", "test.tar", "other.npy #3",
    ],
)  # fmt: skip
def test_facts_about_guard_and_setting_stand_in_the_page(page: Page, fact: str) -> None:
    assert fact in page.text


def test_the_headline_holds_the_adaptive_figure_beside_the_flattering_one(
    guard: Path, evaluation: Path
) -> None:
    html = rendered(guard, evaluation).html
    headline = html[html.index("<h1>") : html.index("</h1>")]
    content = read_json(evaluation / "metrics.json")
    worst = min(row["guarded_perturbed_accuracy"]["value"] for row in content["adaptive"])
    for value in (
        content["undefended_perturbed_accuracy"]["value"],
        content["guarded_perturbed_accuracy"]["value"],
        worst,
    ):
        assert f"{100 * value:.1f}&nbsp;%" in headline
    assert html.index("adaptive attacker, guarded") < html.index("PRN-gain, protocol A")


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page.html)
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href"):
            assert str(attributes.get(name, "data:")).startswith("data:")
    assert "default-src 'none'" in page.html


def test_every_image_has_a_text_and_every_table_caption_and_headers(page: Page) -> None:
    assert len(page.all("img")) == 2 * 5 + 2 + 2
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert all(header.get("scope") for header in page.all("th"))
    assert len(page.all("source")) == 2
    assert all("dark" in str(source["media"]) for source in page.all("source"))


def test_what_was_removed_is_scaled_by_the_factor_that_is_stated(page: Page) -> None:
    stacks = {name: value for name, value in examples().items() if value.dim() == 4}
    arrays = {name: value.double().numpy()[:, 0] for name, value in stacks.items()}
    removed = arrays["perturbed"] - arrays["rectified"]
    removed_clean = arrays["clean"] - arrays["clean_rectified"]
    # 99 % of the values lie within 0.25, so that 0.5 + 2 * removed just fits.
    assert np.quantile(np.abs([removed, removed_clean]), 0.99) == 0.25
    assert "scaled for the eye 2.0 times" in page.text
    for alt, oracle in (
        ("What the rectifier removed from the perturbed picture", removed),
        ("What the rectifier removes from the clean picture", removed_clean),
    ):
        expected = np.round(np.clip(0.5 + 2 * oracle, 0, 1) * 255).astype(np.uint8)
        np.testing.assert_array_equal(page.pixels(alt), expected)
    pattern = np.round((0.5 + 4 * arrays["perturbations"]) * 255).astype(np.uint8)
    assert "Scaled for the eye 4.0 times" in page.text
    np.testing.assert_array_equal(page.pixels("Held-out perturbation"), pattern)


@pytest.mark.parametrize(
    ("largest", "factor"),
    [(0.15, 3.3), (10 / 255, 12.0), (0.5, 1.0), (0.61, 0.81), (1.0, 0.5), (0.004, 120.0), (0, 1.0)],
)
def test_the_factor_is_the_largest_of_two_digits_that_clips_nothing(
    largest: float, factor: float
) -> None:
    pattern = torch.tensor([0.0, -largest, largest / 2]).reshape(1, 1, 3)
    assert eye_factor(pattern) == factor
    assert factor * largest <= 0.5 + 1e-6


def test_labels_and_verdicts_of_the_examples_follow_labels_and_threshold(page: Page) -> None:
    text = re.sub(r"\s+([;:,])", r"\1", page.text)
    assert "true cat; bare target says dog ✗; guarded cat ✓" in text
    assert "Score 1.23, threshold 0.75: flagged" in text
    assert "Score 0.41, threshold 0.75: not flagged, missed" in text
    assert "score -1.11: not flagged, passed on" in text
    assert "score 0.93: flagged by mistake" in text


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert('$x')</script>"
    write_guard(tmp_path / "guard", names=(hostile, "dog"))
    content = metrics(tmp_path / "guard")
    content["adaptive"][0]["surrogate"] = '"><img src=x onerror=$\\frac$>'
    content["elsewhere"][0]["file"] = hostile
    content["threat_model"]["adaptive"] = hostile
    content["setting"]["hardware"] = hostile
    write_evaluation(tmp_path / "evaluation", content)
    page = rendered(tmp_path / "guard", tmp_path / "evaluation")
    assert not page.all("script")
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert hostile in page.text
    assert "onerror" not in {name for _, attributes in page.tags for name in attributes}


def test_rgb_pictures_that_are_not_square(tmp_path: Path) -> None:
    write_guard(tmp_path / "guard", shape=(3, 12, 9))
    tensors = examples((3, 12, 9))
    write_evaluation(tmp_path / "evaluation", metrics(tmp_path / "guard"), tensors)
    page = rendered(tmp_path / "guard", tmp_path / "evaluation")
    expected = np.round(tensors["clean"].double().numpy() * 255).astype(np.uint8)
    np.testing.assert_array_equal(page.pixels("Clean picture"), expected.transpose(0, 2, 3, 1))
    assert 'class="grid pixelated"' in page.html


def test_large_pictures_are_shown_smaller_and_the_page_says_so(tmp_path: Path) -> None:
    shape = (1, 448, 896)
    write_guard(tmp_path / "guard", shape=(1, 448, 896))
    write_evaluation(tmp_path / "evaluation", metrics(tmp_path / "guard"), examples(shape))
    page = rendered(tmp_path / "guard", tmp_path / "evaluation")
    assert page.pixels("Clean picture").shape == (2, 224, 448)
    assert "shown at reduced size" in page.text
    assert 'class="grid"' in page.html


def test_an_adaptive_attack_weaker_than_transfer_is_called_weak(
    guard: Path, evaluation: Path
) -> None:
    content = read_json(evaluation / "metrics.json")
    point = content["fooling_against_epsilon"][1]
    assert point["adaptive"]["value"] > point["guarded"]["value"]
    assert "too weak there" not in rendered(guard, evaluation).text
    point["guarded"], point["adaptive"] = point["adaptive"], point["guarded"]
    write_evaluation(evaluation, content)
    assert "At epsilon 0.125 (31.88/255) the adaptive attack" in rendered(guard, evaluation).text


def test_a_curve_below_the_worst_surrogate_is_said_to_understate(
    guard: Path, evaluation: Path
) -> None:
    content = read_json(evaluation / "metrics.json")
    assert "understates" not in rendered(guard, evaluation).text
    content["adaptive"][1]["guarded_fooling_rate"] |= {"value": 0.99, "low": 0.98, "high": 1.0}
    write_evaluation(evaluation, content)
    text = rendered(guard, evaluation).text
    assert "“soft gate” fools 99.00 % (the star), more than the adaptive curve's" in text


def test_a_bank_that_missed_its_criteria_is_said_to(tmp_path: Path) -> None:
    write_guard(tmp_path / "guard", relaxed=True)
    write_evaluation(tmp_path / "evaluation", metrics(tmp_path / "guard"))
    text = rendered(tmp_path / "guard", tmp_path / "evaluation").text
    assert "The criteria of the bank were not met" in text
    assert "not met, strongest kept" in text


def test_the_metrics_come_back_and_the_same_files_give_the_same_page(
    guard: Path, evaluation: Path, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    first = write_report(guard, evaluation, tmp_path / "a.html")
    assert first == read_json(evaluation / "metrics.json")
    write_report(guard, evaluation, tmp_path / "deep" / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "deep" / "b.html").read_bytes()
    assert dict(mpl.rcParams) == before
