"""`show` and `robustness` on the command line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.commands import Ended, Run, assert_refused
from tests.tolerances import FIGURE, assert_close
from tests.training.tiny_guard import Workplace

SIDE = 8
FACTORY = """
import torch
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target


class Red(nn.Module):
    def forward(self, images):
        redness = images[:, 0].mean(dim=(1, 2))
        return torch.stack([-redness, redness], dim=1)


def build():
    spec = InputSpec(
        channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="rgb"
    )
    return Target(Red(), spec)
"""


@dataclass(frozen=True)
class Red:
    """A classifier that sees the first channel only, and a perturbation that darkens it."""

    arguments: tuple[str, ...]
    perturbation: np.ndarray
    """`(C, H, W)`, for pixels in [0, 1]."""


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Red:
    folder = tmp_path_factory.mktemp("red")
    (folder / "factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    for name, low in (("dim", 60), ("red", 130)):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(100, 150, (SIDE, SIDE, 3)).astype(np.uint8)
            pixels[..., 0] = rng.integers(low, low + 60, (SIDE, SIDE))
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    perturbation = np.zeros((3, SIDE, SIDE), dtype=np.float32)
    perturbation[0] = -0.3
    perturbation[2] = 0.01
    return Red(
        ("--target", f"{folder / 'factory.py'}:build", "--images", str(folder / "pictures")),
        perturbation,
    )


def _show(run: Run, red: Red, folder: Path, array: np.ndarray, *options: object) -> Ended:
    np.save(folder / "p.npy", array)
    return run(
        *("show", folder / "p.npy", *red.arguments, "--epsilon", "0.3"),
        *("--out", folder / "out", "--json", folder / "s.json", *options),
    )


def _rows(folder: Path) -> Any:
    return json.loads((folder / "s.json").read_text())["perturbations"]


def test_perturbations_are_drawn_with_their_figures(run: Run, red: Red, tmp_path: Path) -> None:
    ended = _show(run, red, tmp_path, red.perturbation)
    assert ended.code == 0, ended.err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"contact-sheet.png", "fooling-against-epsilon.png", "perturbations.json"} <= written
    numbers = json.loads((tmp_path / "out" / "perturbations.json").read_text())
    assert json.loads((tmp_path / "s.json").read_text()) == numbers
    (row,) = numbers["perturbations"]
    assert row["sent_to"]["picture"] in written


FORMS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "0-255": (
        lambda array: array * 255,
        ("0-255 scale", "--perturbation-scale 255"),
        ("--perturbation-scale", "255"),
    ),
    "HWC": (
        lambda array: array.transpose(1, 2, 0),
        ("channels last (HWC)", "--perturbation-layout hwc"),
        ("--perturbation-layout", "hwc"),
    ),
    "BGR": (
        lambda array: array[::-1],
        ("seem to be BGR", "--perturbation-order bgr"),
        ("--perturbation-order", "bgr"),
    ),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_a_mistaken_form_is_refused_and_passes_when_it_is_stated(
    run: Run, red: Red, tmp_path: Path, form: str
) -> None:
    change, parts, options = FORMS[form]
    array = np.ascontiguousarray(change(red.perturbation))
    assert_refused(_show(run, red, tmp_path, array), *parts)
    assert not (tmp_path / "out").exists()
    assert _show(run, red, tmp_path, array, *options).code == 0
    stated = _rows(tmp_path)
    assert _show(run, red, tmp_path, red.perturbation).code == 0
    assert stated == _rows(tmp_path)


def test_who_states_the_order_is_believed(run: Run, red: Red, tmp_path: Path) -> None:
    reversed_too = np.ascontiguousarray(red.perturbation[::-1])
    assert _show(run, red, tmp_path, reversed_too, "--perturbation-order", "rgb").code == 0


def test_a_perturbation_outside_its_ball_is_refused(run: Run, red: Red, tmp_path: Path) -> None:
    ended = _show(run, red, tmp_path, red.perturbation * 2)
    assert_refused(ended, "outside the ball", "epsilon is 0.3")


def test_robustness_writes_what_it_measures(run: Run, work: Workplace, tmp_path: Path) -> None:
    pytest.importorskip("art", reason="the library of per-image attacks is not installed")
    out = tmp_path / "robustness.json"
    command = (
        *("robustness", *work.arguments(), "--test-images", work.images, "--epsilon", "0.15"),
        *("--attack", "fgsm", "--pictures", 10, "--rate", "0.4", "--limit", 80, "--out", out),
    )
    ended = run(*command, "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    result = json.loads(out.read_text())
    assert json.loads((tmp_path / "r.json").read_text()) == result
    assert result["clean_accuracy"]["n"] == 80
    assert_close(result["clean_accuracy"]["value"], 0.9, FIGURE)
    assert result["under fgsm"]["accuracy"]["n"] == 10
    assert not [name for name in result if name.startswith("under ") and name != "under fgsm"]
    assert 0 < result["universal_robustness"]["epsilon"] < 1
    assert_refused(run(*command, "--attack", "magic"), "magic")
