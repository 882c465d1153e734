"""Sets in memory, subsets and batches."""

import pytest
import torch

from prn_guard.errors import DataError, InvalidArgumentError
from training.datasets import ArrayPictures, Pictures, Subset, batches
from training.datasets.fitting import Fitting

NAMES = ("a", "b", "c")


def _images(count: int = 7, channels: int = 1, side: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _labels(count: int = 7) -> torch.Tensor:
    return torch.arange(count) % 3


def test_a_batch_is_the_chosen_pictures_over_255_in_the_given_order() -> None:
    images = _images()
    pictures = ArrayPictures(images, _labels(), NAMES)
    indices = torch.tensor([5, 0, 5])
    batch = pictures.batch(indices)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, images[indices].float() / 255)
    assert (pictures.shape, len(pictures), pictures.class_names) == ((1, 10, 10), 7, NAMES)


def test_gray_arrays_are_replicated_for_an_rgb_target() -> None:
    images = _images()
    pictures = ArrayPictures(images, _labels(), NAMES, fitting=Fitting((3, 10, 10)))
    batch = pictures.batch(torch.tensor([1, 2]))
    assert batch.shape == (2, 3, 10, 10)
    for channel in range(3):
        assert torch.equal(batch[:, channel], images[1:3, 0].float() / 255)


def test_every_crop_is_one_of_the_five_and_all_five_occur() -> None:
    images = _images()
    pictures = ArrayPictures(images, _labels(), NAMES, fitting=Fitting((1, 8, 8)))
    whole = images[3].float() / 255
    five = [whole[:, t : t + 8, x : x + 8] for t, x in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    indices = torch.full((100,), 3)
    batch = pictures.batch(indices, crops=torch.Generator().manual_seed(0))
    seen = {
        next(place for place, crop in enumerate(five) if torch.equal(crop, image))
        for image in batch
    }
    assert seen == {0, 1, 2, 3, 4}
    assert torch.equal(pictures.batch(indices), five[4].expand(100, -1, -1, -1))
    assert torch.equal(batch, pictures.batch(indices, crops=torch.Generator().manual_seed(0)))


def test_arrays_are_resized_on_demand() -> None:
    fitting = Fitting((3, 20, 20), resize=20)
    pictures = ArrayPictures(torch.full((2, 1, 10, 10), 51, dtype=torch.uint8), _labels(2), NAMES,
                             fitting=fitting)  # fmt: skip
    assert torch.equal(pictures.batch(torch.tensor([1])), torch.full((1, 3, 20, 20), 51 / 255))


def test_a_subset_reads_through_its_indices_also_when_nested() -> None:
    images = _images()
    pictures = ArrayPictures(images, _labels(), NAMES)
    subset = Subset(Subset(pictures, torch.tensor([6, 4, 2, 0])), torch.tensor([3, 1]))
    assert subset.labels.tolist() == [0, 4 % 3]
    assert torch.equal(subset.batch(torch.tensor([1, 0])), images[[4, 0]].float() / 255)
    assert (len(subset), subset.shape, subset.class_names) == (2, (1, 10, 10), NAMES)


def test_batches_cover_all_in_order() -> None:
    images = _images()
    pictures: Pictures = ArrayPictures(images, _labels(), NAMES)
    parts = list(batches(pictures, 3))
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part for part, _ in parts]), images.float() / 255)
    assert torch.equal(torch.cat([labels for _, labels in parts]), _labels())


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([7]),
        torch.tensor([-1]),
        torch.tensor([0.0]),
        torch.tensor([[0]]),
        torch.tensor([], dtype=torch.int64),
    ],
)
def test_indices_outside_the_set_are_refused(indices: torch.Tensor) -> None:
    pictures = ArrayPictures(_images(), _labels(), NAMES)
    with pytest.raises(InvalidArgumentError, match="indices"):
        pictures.batch(indices)
    with pytest.raises(InvalidArgumentError, match="indices"):
        Subset(pictures, indices)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="batch_size is 0"):
        next(batches(ArrayPictures(_images(), _labels(), NAMES), 0))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (_images().float(), _labels(), "expected uint8"),
        (_images()[0], _labels(), "expected uint8"),
        (_images(), _labels(6), "7 pictures"),
        (_images(), _labels().int(), "int64"),
        (_images(), _labels() + 1, "from 1 to 3, but there are 3 classes"),
        (_images(), _labels() - 1, "from -1"),
        (_images(0), _labels(0), "at least one picture"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ArrayPictures(images, labels, NAMES)


def test_arrays_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(DataError, match="takes 11x11"):
        ArrayPictures(_images(), _labels(), NAMES, fitting=Fitting((1, 11, 11)))
