"""Which pictures serve which part: sizes worked out by hand, and nobody sees another's."""

import pytest
import torch

from prn_guard.errors import DataError
from training.datasets import ArrayPictures
from training.guard.splits import Splits, split_pictures


def _pictures(count: int) -> ArrayPictures:
    labels = torch.zeros(count, dtype=torch.int64)
    return ArrayPictures(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), labels, ("a", "b"))


def _places(splits: Splits) -> list[list[int]]:
    parts = (splits.rectifier, splits.judging, splits.detector, splits.calibration)
    return [part._indices.tolist() for part in parts]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (100, [60, 10, 15, 15]),
        (199, [122, 19, 29, 29]),
        (50_000, [33_000, 5_000, 6_000, 6_000]),
        (70_000, [52_000, 6_000, 6_000, 6_000]),
    ],
)
def test_the_parts_are_disjoint_and_cover_everything(count: int, sizes: list[int]) -> None:
    places = _places(split_pictures(_pictures(count), seed=0))
    assert [len(part) for part in places] == sizes
    assert sorted(place for part in places for place in part) == list(range(count))


def test_the_split_is_random_and_repeats_under_its_seed() -> None:
    first = _places(split_pictures(_pictures(200), seed=0))
    assert first == _places(split_pictures(_pictures(200), seed=0))
    assert first != _places(split_pictures(_pictures(200), seed=1))
    assert all(part != sorted(part) for part in first)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="There are 99 training pictures; at least 100"):
        split_pictures(_pictures(99), seed=0)
