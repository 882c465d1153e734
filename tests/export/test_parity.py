"""Graph and torch modules decide alike, and where they do not, nothing is exported."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.parity import (
    MARGINS,
    Tally,
    _refuse_disparity,
    _same_bits,
    compare,
    measure_parity,
)
from export.pipeline import ExportOptions, guarded_graph
from prn_guard.errors import ArtifactError
from prn_guard.nn.guarded import GuardedClassifier
from tests.export.conftest import Artifact
from tests.training.tiny_guard import TEST
from training.datasets import Pictures, Subset
from training.evaluation.outcomes import answers
from training.guard.folder import load_bank

Side = dict[str, NDArray[Any]]
FULL = MARGINS["fp32"]


def test_the_graph_decides_as_the_modules_do(
    artifact: Artifact, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    unseen = load_bank(guard_folder).unseen
    parity = measure_parity(
        artifact.graph, artifact.classifier, guarded, test_set, unseen, margins=FULL
    )
    assert parity == artifact.manifest.parity
    assert parity.pictures == 2 * TEST
    assert 0 < parity.driven <= TEST
    assert (parity.label_mismatches, parity.flag_mismatches) == (0, 0)
    assert parity.unflagged_bit_equal
    assert 0 < parity.max_score_difference < FULL.score / 10
    assert parity.max_logit_difference < FULL.logit / 10


def test_a_threshold_on_a_pictures_own_score(
    guarded: GuardedClassifier, test_set: Pictures, artifact: Artifact
) -> None:
    """The nearest that a picture can be: the float32 score itself, and one step to each side."""
    scores = answers(guarded, test_set).scores
    middle = float(np.sort(scores)[TEST // 2])
    guarded.detector.threshold.fill_(middle)
    graph = guarded_graph(guarded, artifact.classifier, ExportOptions())
    still = torch.zeros(1, *test_set.shape)
    parity = measure_parity(graph, artifact.classifier, guarded, test_set, still, margins=FULL)
    near = int(np.sum(np.abs(scores - middle) < FULL.score))
    assert parity.inside_margin >= 2 * near >= 2
    assert (parity.label_mismatches, parity.flag_mismatches) == (0, 0)
    assert parity.unflagged_bit_equal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("threshold", "flags differ"),
        ("bias", "scores differ by up to 0.5"),
        ("rectifier", "scores differ"),
        ("target", "labels"),
    ],
)
def test_the_graph_of_another_guard_is_refused(
    artifact: Artifact,
    guarded: GuardedClassifier,
    test_set: Pictures,
    guard_folder: Path,
    change: str,
    message: str,
) -> None:
    with torch.no_grad():
        if change == "threshold":
            guarded.detector.threshold -= 0.5
        elif change == "bias":
            guarded.detector.bias += 0.5
            guarded.detector.threshold += 0.5
        elif change == "rectifier":
            guarded.rectifier.exit.bias += 0.01
        else:
            guarded.target.classifier[-1].bias += torch.tensor([5.0, 0.0, -5.0])
    unseen = load_bank(guard_folder).unseen
    with pytest.raises(ArtifactError, match=message) as refused:
        measure_parity(artifact.graph, artifact.classifier, guarded, test_set, unseen, margins=FULL)
    assert "Nothing was exported" in str(refused.value)


def test_unflagged_logits_must_be_the_bare_targets(
    artifact: Artifact, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    model = copy.deepcopy(artifact.classifier.model)
    bias = next(item for item in model.graph.initializer if item.name.endswith("bias"))
    value = numpy_helper.to_array(bias).copy()
    value[0] = np.nextafter(value[0], np.float32(9))
    bias.CopyFrom(numpy_helper.from_array(value, bias.name))
    other = dataclasses.replace(artifact.classifier, model=model)
    unseen = load_bank(guard_folder).unseen
    with pytest.raises(ArtifactError, match="not bit-equal to the bare"):
        measure_parity(artifact.graph, other, guarded, test_set, unseen, margins=FULL)


def test_answers_that_are_not_finite_are_refused(
    artifact: Artifact, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    guarded.detector.weight.fill_(torch.nan)
    graph = guarded_graph(guarded, artifact.classifier, ExportOptions())
    some = Subset(test_set, torch.arange(4))
    with pytest.raises(ArtifactError, match="not finite"):
        measure_parity(
            graph, artifact.classifier, guarded, some, load_bank(guard_folder).unseen, margins=FULL
        )


THRESHOLD = 0.5


def _side(**changes: list[Any]) -> Side:
    """Answers for four pictures over two classes: scores 0, 0.4, 0.6 and 1."""
    columns: dict[str, Any] = {
        "logits": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
        "label": [1, 0, 1, 0],
        "score": [0.0, 0.4, 0.6, 1.0],
        "flagged": [False, False, True, True],
    }
    return {name: np.array(value) for name, value in (columns | changes).items()}


def _tally(torch_side: Side, graph: Side) -> Any:
    tally = Tally(FULL)
    tally.add(torch_side, graph, THRESHOLD)
    return tally.result()


def test_sides_that_agree() -> None:
    parity = _tally(_side(), _side())
    assert (parity.pictures, parity.inside_margin) == (4, 0)
    assert (parity.max_logit_difference, parity.max_score_difference) == (0, 0)
    _refuse_disparity(parity)


def test_every_difference_outside_the_band_is_counted() -> None:
    graph = _side(label=[0, 0, 1, 1], flagged=[False, True, True, False])
    parity = _tally(_side(), graph)
    # Under another flag another picture is classified: its label differs for that reason.
    labels, flags = np.array([0, 0, 1, 1]), np.array([False, True, True, False])
    plain = _side()
    agreed = flags == plain["flagged"]
    expected = (int(((labels != plain["label"]) & agreed).sum()), int((~agreed).sum()))
    assert (parity.label_mismatches, parity.flag_mismatches) == expected
    with pytest.raises(ArtifactError, match=f"{expected[0]} labels and {expected[1]} flags differ"):
        _refuse_disparity(parity)


def test_a_label_near_the_threshold_is_no_excuse() -> None:
    near = [THRESHOLD + FULL.score / 2] * 4
    flags = [True] * 4
    parity = _tally(
        _side(score=near, flagged=flags), _side(score=near, flagged=flags, label=[0] * 4)
    )
    assert parity.flag_mismatches == 0
    assert parity.label_mismatches == int((_side()["label"] != 0).sum()) > 0


def test_inside_the_band_decisions_may_differ() -> None:
    near = THRESHOLD + FULL.score / 2
    torch_side = _side(
        score=[0.0, near, 0.6, 1.0],
        flagged=[False, True, True, True],
        logits=[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0 + FULL.logit / 2]],
        label=[1, 0, 1, 1],
    )
    # The second picture is not flagged, so other logits come out; the fourth is a close call.
    graph = _side(
        score=[0.0, near - FULL.score * 0.9, 0.6, 1.0],
        flagged=[False, False, True, True],
        logits=[[0.0, 1.0], [0.0, 9.0], [0.0, 1.0], [1.0, 1.0]],
        label=[1, 1, 1, 0],
    )
    parity = _tally(torch_side, graph)
    assert (parity.label_mismatches, parity.flag_mismatches, parity.inside_margin) == (0, 0, 2)
    assert parity.max_logit_difference < FULL.logit
    assert parity.differing == 2
    _refuse_disparity(parity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": [0.0, 0.4, 0.6, 1.01]}, "scores differ by up to 0.01"),
        (
            {"logits": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.5], [1.0, 0.0]]},
            "logits differ by up to 0.5",
        ),
    ],
)
def test_large_differences_are_refused_even_if_all_decisions_agree(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        _refuse_disparity(_tally(_side(), _side(**changes)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["torch", "graph"])
def test_a_score_that_is_no_number_is_refused(which: str, value: float) -> None:
    broken = _side(score=[0.0, 0.4, 0.6, value])
    sides = (broken, _side()) if which == "torch" else (_side(), broken)
    with pytest.raises(ArtifactError, match="not finite"):
        _tally(*sides)


def test_bit_equality_alone_is_a_reason_to_refuse() -> None:
    tally = Tally(FULL)
    tally.add(_side(), _side(), THRESHOLD)
    tally.bit_equal = False
    parity = tally.result()
    with pytest.raises(ArtifactError, match="not bit-equal"):
        _refuse_disparity(parity)


def test_a_zero_of_the_other_sign_has_other_bits() -> None:
    ones = np.array([0.0, -0.0, 1.0, 1.0], np.float32)
    others = np.array([-0.0, -0.0, 1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert _same_bits(ones, others).tolist() == [False, True, True, False]


def test_nothing_is_said_of_logits_where_every_picture_is_flagged(
    guarded: GuardedClassifier, test_set: Pictures, artifact: Artifact
) -> None:
    guarded.detector.threshold.fill_(-1e6)
    graph = guarded_graph(guarded, artifact.classifier, ExportOptions())
    few, still = Subset(test_set, torch.arange(4)), torch.zeros(1, *test_set.shape)
    with pytest.raises(ArtifactError, match="flags every picture of the comparison"):
        compare(graph, artifact.classifier, guarded, few, still, margins=FULL)
