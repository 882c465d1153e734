"""What is stated of a perturbation's scale, layout and channel order, and what contradicts it."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from prn_guard.errors import DataError, InvalidArgumentError
from tests.tolerances import RESCALED, assert_close
from tests.training.perturbations.written import SHAPE, WRITERS, Array
from training.perturbations.loading import load_perturbations


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("name", ["one.npy", "one.mat", "7.3.mat", "one.pth"])
def test_what_is_stated_is_applied(
    tmp_path: Path, stack: Array, name: str, *, single: bool
) -> None:
    truth = stack[:1] if single else stack
    given = np.ascontiguousarray(truth.transpose(0, 2, 3, 1)[..., ::-1] * np.float32(255))
    WRITERS[name](tmp_path / name, given[0] if single else given)
    found = load_perturbations(tmp_path / name, SHAPE, scale=255, layout="hwc", channel_order="bgr")
    assert found.is_contiguous()
    assert_close(found, truth, RESCALED)


def test_stating_the_usual_changes_nothing(tmp_path: Path, stack: Array) -> None:
    np.save(tmp_path / "p.npy", stack)
    found = load_perturbations(
        tmp_path / "p.npy", SHAPE, scale=1, layout="chw", channel_order="rgb"
    )
    assert np.array_equal(found.numpy(), stack)


def test_signed_whole_numbers_are_taken_on_the_0_255_scale(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.full(SHAPE, -10, np.int8))
    found = load_perturbations(tmp_path / "p.npy", SHAPE, scale=255)
    assert torch.equal(found, torch.full((1, *SHAPE), -10 / 255))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(SHAPE, 10 / 255), "0.03922: it is already on"),
        (np.stack([np.full(SHAPE, 10.0), np.full(SHAPE, 0.5)]), "is 0.5: it is already on"),
        (np.full(SHAPE, 256.0), "is 256; .* at most 255"),
        (np.full(SHAPE, 10, np.uint8), "torch.uint8: unsigned values cannot darken"),
    ],
)
def test_a_scale_that_the_numbers_contradict_is_refused(
    tmp_path: Path, array: Array, message: str
) -> None:
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(DataError, match=message):
        load_perturbations(tmp_path / "p.npy", SHAPE, scale=255)


def test_channels_first_stated_to_be_last_are_refused(tmp_path: Path, stack: Array) -> None:
    np.save(tmp_path / "p.npy", stack)
    with pytest.raises(DataError, match=r"channels first \(CHW\) already: leave out"):
        load_perturbations(tmp_path / "p.npy", SHAPE, layout="hwc")


@pytest.mark.parametrize("layout", ["chw", "hwc", None])
@pytest.mark.parametrize("name", ["one.npy", "one.mat"])
def test_a_gray_one_needs_no_channels(
    tmp_path: Path, stack: Array, name: str, layout: Literal["chw", "hwc"] | None
) -> None:
    WRITERS[name](tmp_path / name, stack[0, 0])
    found = load_perturbations(tmp_path / name, (1, 10, 12), layout=layout)
    assert np.array_equal(found.numpy(), stack[:1, :1])


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"scale": 256}, "scale is 256; expected 1 or 255"),
        ({"layout": "HWC"}, "layout is 'HWC'"),
        ({"channel_order": "gbr"}, "channel_order is 'gbr'"),
    ],
)
def test_an_unknown_statement_is_refused(
    tmp_path: Path, stated: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load_perturbations(tmp_path / "p.npy", SHAPE, **stated)


def test_gray_has_no_channel_order(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no order to state"):
        load_perturbations(tmp_path / "p.npy", (1, 10, 12), channel_order="bgr")
