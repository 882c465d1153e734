"""The table in the terminal says what the metrics say."""

import pytest

from prn_guard.console import ball_text
from tests.training.evaluation.conftest import Evaluation
from tests.training.tiny_guard import EPSILON
from training.evaluation.metrics import Figure
from training.evaluation.tables import interval, percent, print_metrics, rows_of


def test_fractions_are_printed_in_percent() -> None:
    figure = Figure(value=0.12345, n=7, low=0.1, high=0.98765)
    assert percent(figure) == "12.35"
    assert interval(figure) == "10.00 to 98.77"


def test_every_figure_has_its_row(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    rows = rows_of(metrics)
    assert len(rows) == 6 + 2 * 5
    by_text = {row[0]: row[1:] for row in rows}
    for text, figure in (
        ("clean accuracy, bare target", metrics["clean_accuracy"]),
        ("clean accuracy, guarded", metrics["guarded_clean_accuracy"]),
        ("accuracy under the adaptive attacker, guarded", metrics["adaptive_accuracy"]),
        ("false-positive rate", metrics["false_positive_rate"]),
        ("PRN-gain, protocol A", metrics["protocol_a"]["prn_gain"]),
        ("defense rate, protocol B", metrics["protocol_b"]["defense_rate"]),
    ):
        assert by_text[text] == (percent(figure), interval(figure), str(figure["n"]))


def test_perturbations_made_elsewhere_have_rows(evaluation: Evaluation) -> None:
    figure = evaluation.metrics["clean_accuracy"]
    row = {"file": "own.npy", "number": 3, "linf": 10 / 255, "guarded_perturbed_accuracy": figure}
    (text, *_) = rows_of(evaluation.metrics | {"elsewhere": [row]})[-1]
    assert text == "guarded, own.npy #3 (linf 10/255)"


def test_the_threat_model_stands_below(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    print_metrics(evaluation.metrics)
    text = " ".join(capsys.readouterr().out.split())  # the note is folded below the table
    assert ball_text("linf", EPSILON) in text
    assert "Held-out: " in text
    assert "Adaptive: " in text
    assert text.index("clean accuracy, guarded") < text.index("PRN-gain, protocol A")
