"""A graph that answers with the rectified picture too."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.deliveries import as_images
from export.parity import MARGINS, Tally, _refuse_disparity, measure_parity
from export.pipeline import ClientInput, ExportOptions, guarded_graph
from export.placement import table_placement
from prn_guard import Guard
from prn_guard.contract import UINT8_NHWC, InputTensor
from prn_guard.errors import ArtifactError
from prn_guard.nn.guarded import GuardedClassifier
from tests.commands import Run
from tests.export.conftest import Artifact
from tests.export.onnx_exports import Wrap, assert_serves_as_the_modules, export_file
from tests.export.small_classifiers import twin_model
from tests.export.test_guard_front import SPECS, _front, _on_own_scale, _pixels
from tests.tolerances import CONVOLUTION, HALF_RECTIFIED, SCALED, assert_close
from training.datasets import Pictures
from training.guard.folder import load_bank

SHOWING = ExportOptions(with_rectified=True)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("client_input", ["uint8-nhwc", "same"])
@torch.no_grad()
def test_pixels_in_red_green_blue_whatever_the_classifier_takes(
    name: str, client_input: str
) -> None:
    spec, unit = SPECS[name], _pixels().astype(np.float64) / 255
    if client_input == "same":
        tensor = InputTensor(name="x", dtype="float32", layout=spec.layout)
        given = torch.from_numpy(_on_own_scale(unit, spec)).float().contiguous()
    else:
        tensor, given = UINT8_NHWC, torch.from_numpy(_pixels())
    front = _front(spec, tensor, 0.0)
    chosen, score, flagged = front(given)
    front.with_rectified = True
    *same, rectified = front(given)
    assert all(map(torch.equal, same, (chosen, score, flagged)))
    assert rectified.is_contiguous()
    assert_close(rectified * 255, unit / 2 * 255, SCALED)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("client_input", ["uint8-nhwc", "same"])
@pytest.mark.usefixtures("same_front")
def test_from_an_onnx_file_whose_own_output_has_the_name(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    guarded: GuardedClassifier,
    client_input: ClientInput,
    precision: str,
) -> None:
    model = twin_model(answer="rectified")
    exported = export_file(
        in_front_of,
        tmp_path / "out",
        model,
        client_input=client_input,
        precision=precision,
        with_rectified=True,
    )
    manifest = exported.manifest
    assert manifest.outputs[-4:] == ("label", "score", "flagged", "guard_rectified")
    assert manifest.names.rectified == "guard_rectified"
    assert_serves_as_the_modules(exported, pixels)
    examination = Guard(exported.out).examine(pixels, batch_size=60)
    with torch.no_grad():
        expected = guarded(as_images(pixels)).rectified.permute(0, 2, 3, 1)
    assert examination.rectified is not None
    tolerance = CONVOLUTION if precision == "fp32" else HALF_RECTIFIED
    assert_close(examination.rectified, expected, tolerance)
    assert np.abs(examination.rectified - pixels / 255).max() > 10 * tolerance.absolute
    difference = manifest.parity.max_rectified_difference
    assert difference is not None
    assert 0 < difference < 1e-4


def test_the_command_writes_it_on_request_alone(
    run: Run, guard_folder: Path, artifact: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = run("guard", guard_folder, "--out", out, "--with-rectified", "--limit", 20)
    assert ended.code == 0, ended.err
    assert "largest difference, rectified" in ended.out
    told = json.loads((out / "manifest.json").read_text())
    assert told["outputs"] == ["logits", "label", "score", "flagged", "rectified"]
    graph = onnx.load(out / "guarded.onnx").graph
    sizes = [axis.dim_value for axis in graph.output[-1].type.tensor_type.shape.dim[1:]]
    assert sizes == [12, 12, 1]
    assert table_placement((out / "guarded.onnx").read_bytes())[1] == ()
    plain = json.loads((artifact.folder / "manifest.json").read_text())
    assert "rectified" not in json.dumps(plain)


def test_another_rectifier_is_refused(
    artifact: Artifact, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    graph = guarded_graph(guarded, artifact.classifier, SHOWING)
    with torch.no_grad():
        guarded.rectifier.exit.bias += 0.01
    unseen = load_bank(guard_folder).unseen
    with pytest.raises(ArtifactError, match=r"rectified pictures differ by up to 0\.01"):
        measure_parity(
            graph, artifact.classifier, guarded, test_set, unseen, margins=MARGINS["fp32"]
        )


def test_less_than_a_step_of_eight_bits_is_no_reason_to_refuse(artifact: Artifact) -> None:
    blank = np.zeros((2, 3, 3, 1), np.float32)
    for values, refused in (([0.0, 0.0039], False), ([0.0039, 0.0041], True)):
        tally = Tally(MARGINS["fp32"])
        tally.pictures[False] = 1
        for value in values:
            tally.add_rectified(blank, blank + np.float32(value))
        parity = tally.result()
        assert parity.max_rectified_difference == np.float32(max(values))
        if refused:
            with pytest.raises(ArtifactError, match="a step of 8 bits"):
                _refuse_disparity(parity)
        else:
            _refuse_disparity(parity)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rectified_values_that_are_no_numbers_are_refused(value: float) -> None:
    blank = np.zeros((1, 2, 2, 1), np.float32)
    for one, other in ((blank, blank + value), (blank + value, blank)):
        with pytest.raises(ArtifactError, match="not finite"):
            Tally(MARGINS["fp32"]).add_rectified(one, other.astype(np.float32))
