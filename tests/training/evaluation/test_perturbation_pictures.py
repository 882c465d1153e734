"""Pictures of perturbations: the numbers behind them, and what the pixels show."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from tests.tolerances import FIGURE, assert_close
from tests.training.small import NAMES, SHAPE, VALUES, linear_classifier, pictures, trained_target
from training.datasets import ArrayPictures
from training.evaluation import perturbation_pictures
from training.evaluation.perturbation_figures import contact_sheet, receiving_bars
from training.evaluation.perturbation_pictures import (
    FACTORS,
    fooling_against_epsilon,
    received,
    sent_to,
    show_perturbations,
)

EPSILON = 0.1


def _stack(count: int = 2, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(3))
    return drawn.sign() * EPSILON


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"number {number}", "norm": EPSILON, "fooling_rate": {"value": 0.5, "n": 10}}
        for number in range(count)
    ]


def test_the_table_counts_every_pair() -> None:
    generator = np.random.default_rng(0)
    clean, perturbed = generator.integers(0, 5, (2, 300))
    expected = np.zeros((5, 5), dtype=int)
    for before, after in zip(clean, perturbed, strict=True):
        expected[before, after] += 1
    table = sent_to(torch.from_numpy(clean), torch.from_numpy(perturbed), 5)
    assert np.array_equal(table.numpy(), expected)
    arrived = [sum(expected[other, one] for other in range(5) if other != one) for one in range(5)]
    assert received(table).tolist() == arrived


def test_the_curve_of_a_linear_classifier_is_known() -> None:
    levels = torch.arange(100, 150, dtype=torch.uint8)
    known = ArrayPictures(
        levels[:, None, None, None].expand(50, *SHAPE), torch.zeros(50).long(), ("dim", "bright")
    )
    classifier = linear_classifier(torch.full(SHAPE, 1 / VALUES), -130.5 / 255)
    # Darker by 4, 8 and 100 levels: the 4, 8 and 19 pictures just above 130 change.
    rates = fooling_against_epsilon(classifier, known, torch.full(SHAPE, -4 / 255), (1, 2, 25))
    assert rates == [4 / 50, 8 / 50, 19 / 50]


def test_everything_is_written_and_the_numbers_agree(tmp_path: Path) -> None:
    known, target, stack = pictures(60), trained_target(), torch.full((2, *SHAPE), -EPSILON)
    stack[0, :, :, :4] = EPSILON
    stack[1, :, :, 8:] = EPSILON
    (tmp_path / "sent-to-07.png").write_bytes(b"of an earlier run")
    numbers = show_perturbations(
        target, known, stack, ["a", "b $x$"], tmp_path, norm="linf", epsilon=EPSILON
    )
    assert json.loads((tmp_path / "perturbations.json").read_text()) == numbers
    names = {"contact-sheet.png", "fooling-against-epsilon.png", "perturbations.json"}
    assert {one.name for one in tmp_path.iterdir()} == names | {"sent-to-01.png", "sent-to-02.png"}
    images = known.batch(torch.arange(60))
    clean = target(images).argmax(dim=1)
    for row, one in zip(numbers["perturbations"], stack, strict=True):
        changed = []
        for factor in FACTORS:
            labels = target((images + factor * one).clamp(0, 1)).argmax(dim=1)
            changed.append(float((labels != clean).double().mean()))
        assert_close(row["fooling_against_epsilon"], changed, FIGURE)
        assert row["fooling_rate"]["value"] == changed[FACTORS.index(1.0)]
        sent = row["sent_to"]
        counts = np.array(sent["counts_clean_to_perturbed"])
        assert counts.sum() == 60
        assert sent["changed"] == counts.sum() - np.trace(counts)
        most = sent["most_receiving"][0]
        off = counts - np.diag(np.diag(counts))
        assert most["pictures"] == off.sum(axis=0).max() == off[:, most["label"]].sum()
        assert most["class"] == NAMES[most["label"]]
        assert row["fooling_rate"]["value"] > 0.1
        assert sent["dominant_share_of_changed"] == most["pictures"] / sent["changed"]
    assert len(numbers["random_noise"]) == len(FACTORS)


def test_many_classes_are_shown_as_bars_and_no_change_is_no_error(tmp_path: Path) -> None:
    known = ArrayPictures(
        torch.full((6, *SHAPE), 128, dtype=torch.uint8), torch.zeros(6).long(), ("only", "two")
    )

    def classifier(images: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full((len(images),), 30), 40).float()

    numbers = show_perturbations(
        classifier, known, _stack(1), ["p"], tmp_path, norm="l2", epsilon=0.1 * VALUES**0.5
    )
    sent = numbers["perturbations"][0]["sent_to"]
    assert sent["most_receiving"] == []
    assert sent["dominant_share_of_changed"] is None
    assert "counts_clean_to_perturbed" not in sent
    assert (tmp_path / "sent-to-01.png").is_file()


def test_bars_are_as_long_as_their_shares() -> None:
    most = [{"label": 2, "class": "c", "pictures": 30}, {"label": 0, "class": "a", "pictures": 15}]
    row = _rows(1)[0] | {
        "sent_to": {
            "changed": 50, "receiving_classes": 3, "most_receiving": most,
            "dominant_share_of_changed": 0.6,
        }
    }  # fmt: skip
    pixels = _pixels(receiving_bars(["a", "b", "c"], row))
    blue = np.all(pixels == (0x00, 0x67, 0xA5), axis=2).sum(axis=1)
    lengths = [int(one) for one in np.unique(blue[blue > 100])]
    # Grid lines hide a pixel or two of each row of a bar.
    assert abs(max(lengths) / min(lengths) - 2) < 0.05


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 12, 20)])
def test_every_value_is_a_square_of_its_brightness(shape: tuple[int, int, int]) -> None:
    stack = _stack(1, shape)
    stack[0, :, 0, 0] = 0.0
    pixels = _pixels(contact_sheet(stack, _rows(1), norm="linf"))
    times = 230 // max(shape[1:])
    shown = np.where(stack[0] > 0, 255, np.where(stack[0] < 0, 0, 127)).transpose(1, 2, 0)
    shown = np.broadcast_to(shown, (*shape[1:], 3)).repeat(times, 0).repeat(times, 1)
    tile = pixels[62 : 62 + times * shape[1], 10 : 10 + times * shape[2]]
    assert np.abs(tile - shown).max() <= 1


@pytest.mark.parametrize("sizes", [(1.0, 0.6), (1.0, 0.01)])
def test_sizes_that_differ_much_are_scaled_each_by_itself(sizes: tuple[float, float]) -> None:
    stack = _stack(2, (1, 28, 28)) * torch.tensor(sizes)[:, None, None, None]
    pixels = _pixels(contact_sheet(stack, _rows(2), norm="linf"))
    second = pixels[62 : 62 + 224, 10 + 244 : 10 + 244 + 224]
    reach = 1.0 if sizes[1] == 0.01 else 0.6
    assert abs(int(second.max()) - 255 * (0.5 + reach / 2)) <= 1


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (1, 28, 28)),
        (50, (1, 28, 28)),
        (1, (3, 224, 224)),
        (7, (3, 224, 224)),
        (2, (3, 600, 500)),
    ],
)
def test_all_tiles_have_their_place(count: int, shape: tuple[int, int, int]) -> None:
    pixels = _pixels(contact_sheet(_stack(count, shape), _rows(count), norm="l2"))
    height, width, _ = pixels.shape
    assert max(height, width) < 2 * 4096
    assert np.all(pixels[-10:] == 255)
    assert np.all(pixels[:, -8:] == 255)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"perturbations": _stack(51)}, DataError, "expected 1 to 50"),
        ({"perturbations": _stack(0)}, DataError, "expected 1 to 50"),
        ({"perturbations": _stack(2, (3, 12, 12))}, DataError, r"of \(1, 12, 12\)"),
        ({"perturbations": _stack()[0]}, DataError, "have shape"),
        (
            {"perturbations": _stack() * torch.tensor([1.0, 0]).reshape(2, 1, 1, 1)},
            DataError,
            "'b'",
        ),
        ({"names": ["a"]}, InvalidArgumentError, "1 names for 2"),
        ({"epsilon": EPSILON / 2}, DataError, "outside the ball"),
        ({"epsilon": 10.0}, InvalidArgumentError, "divide by 255"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "perturbations": _stack(), "names": ["a", "b"], "norm": "linf", "epsilon": EPSILON,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        show_perturbations(trained_target(), pictures(4), out=tmp_path, **(arguments | change))
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "training.evaluation.perturbation_figures", None)
    monkeypatch.delattr("training.evaluation.perturbation_figures", raising=False)
    with pytest.raises(InvalidArgumentError, match=r"prn-guard\[reports\]"):
        perturbation_pictures.show_perturbations(
            trained_target(), pictures(4), _stack(), ["a", "b"], tmp_path,
            norm="linf", epsilon=EPSILON,
        )  # fmt: skip
