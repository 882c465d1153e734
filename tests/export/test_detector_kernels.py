"""Every kernel and every form of features in the graph: it decides alike, and wholly on the GPU."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.guard_front import GuardFront, front_model
from export.pipeline import ExportOptions, export_guard
from export.placement import table_placement
from prn_guard import Guard
from prn_guard.contract import UINT8_NHWC, InputSpec
from prn_guard.nn.detector import DetectorSpec, build_detector, detector_spec
from tests.export.running import answers_of
from tests.tolerances import SCORE, assert_close
from tests.training.tiny_guard import TEST, Workplace
from training.guard.fit_detector import fit_detector
from training.guard.folder import DETECTOR, digests, load_bank, load_guard, save_module
from training.guard.splits import split_pictures

SPECS = {
    "linear, bands": detector_spec(12, 12, features="bands"),
    "linear, energy": detector_spec(12, 12, features="energy"),
    "linear, pooled": DetectorSpec(pool=2),
    "rbf, bands": DetectorSpec(kernel="rbf", features="bands", bands=6, support_vectors=30),
}


def _with_detector(guard_folder: Path, work: Workplace, folder: Path, spec: DetectorSpec) -> Path:
    """A copy of the tiny guard with another detector, fitted as `fit` would."""
    shutil.copytree(guard_folder, folder)
    guarded, record = load_guard(guard_folder)
    splits = split_pictures(work.request().training.pictures, seed=record.seed)
    detector, found = fit_detector(
        guarded.rectifier,
        splits.detector,
        splits.calibration,
        load_bank(guard_folder).training,
        seed=0,
        false_positive_rate=record.false_positive_rate,
        spec=spec,
    )
    save_module(folder / DETECTOR, detector)
    changes = {
        "detector": detector.spec,
        "threshold": found.threshold,
        "files": digests(folder),
    }
    changed = record.model_copy(update=changes)
    (folder / "guard.json").write_text(json.dumps(changed.model_dump(mode="json")))
    return folder


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in SPECS), ("rbf, bands", "fp16")]
)
def test_a_guard_of_every_kind_is_exported_and_decides_alike(
    guard_folder: Path, work: Workplace, tmp_path: Path, name: str, precision: str
) -> None:
    folder = _with_detector(guard_folder, work, tmp_path / "guard", SPECS[name])
    options = ExportOptions(precision="fp16" if precision == "fp16" else "fp32")
    manifest = export_guard(folder, tmp_path / "guarded", options)
    assert manifest.placement.on_cpu == ()
    assert (manifest.parity.label_mismatches, manifest.parity.flag_mismatches) == (0, 0)
    assert manifest.parity.pictures == 2 * TEST
    # The logarithm magnifies what a float16 rectifier rounds.
    share = 0.5 if precision == "fp16" else 0.1
    assert manifest.parity.max_score_difference < share * manifest.parity.score_margin
    assert manifest.parity.unflagged_bit_equal
    guarded, _ = load_guard(folder)
    pixels = np.random.default_rng(0).integers(60, 200, (20, 12, 12, 1)).astype(np.uint8)
    verdict = Guard(tmp_path / "guarded").classify(pixels)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if precision == "fp32":
        assert_close(verdict.score, guarded(images).score, SCORE)
        assert np.ptp(verdict.score) > 10 * SCORE.absolute


class _Blur(nn.Module):
    """A rectifier that removes something from every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(3, stride=1, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.mean(images))


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        ((3, 37, 53), "linear plane"),
        ((3, 70, 65), "linear plane"),
        ((3, 37, 53), "linear bands"),
        ((3, 37, 53), "linear energy"),
        ((1, 8, 8), "linear energy"),
        ((3, 8, 70), "linear energy"),
        ((3, 37, 53), "rbf bands"),
        ((3, 37, 53), "rbf energy"),
        ((1, 8, 8), "rbf bands"),
    ],
)
@torch.no_grad()
def test_graphs_of_odd_sizes_need_standard_operators_only(
    size: tuple[int, int, int], kind: str
) -> None:
    channels, height, width = size
    torch.manual_seed(0)
    kernel, features = kind.split()
    detector = build_detector(
        detector_spec(height, width, kernel=kernel, features=features), height, width
    )
    detector.weight.normal_(std=0.1)
    detector.mean.fill_(-3)
    if kernel == "rbf":
        detector.support.normal_()
        detector.gamma.fill_(0.1 / detector.features.count)
    spec = InputSpec(
        channels=channels, height=height, width=width, mean=(0.5,) * channels,
        std=(0.25,) * channels, channel_order="rgb" if channels == 3 else "gray",
    )  # fmt: skip
    front = GuardFront(_Blur(), detector, spec, UINT8_NHWC).eval()
    model = front_model(front)
    assert {node.domain for node in model.graph.node} == {""}
    placement, fallbacks = table_placement(model.SerializeToString())
    assert (fallbacks, placement.on_cpu) == ((), ())
    onnx.checker.check_model(model, full_check=True)
    pixels = np.random.default_rng(1).integers(0, 256, (5, height, width, channels))
    pixels = pixels.astype(np.uint8)
    score = front(torch.from_numpy(pixels))[1]
    assert_close(answers_of(model, pixels)["score"], score, SCORE)
