"""Pictures put on another device as they are read; `meta` stands for one that is not here."""

import torch

from tests.training.small import everything, pictures
from training.datasets import ArrayPictures, held_in_memory, on_device
from training.datasets.fitting import Fitting

META = torch.device("meta")


def test_pictures_that_are_there_already_are_left_alone() -> None:
    known = pictures(5)
    assert on_device(known, torch.device("cpu")) is known


def test_batches_go_to_the_device_and_labels_stay() -> None:
    known = pictures(5)
    moved = on_device(known, META)
    batch = moved.batch(torch.tensor([3, 1]))
    assert (batch.device, batch.shape) == (META, (2, *known.shape))
    assert (moved.device, len(moved), moved.shape) == (META, 5, known.shape)
    assert torch.equal(moved.labels, known.labels)
    assert moved.class_names == known.class_names


def test_moved_pictures_are_cut_where_the_generator_says() -> None:
    images = torch.randint(256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(40, dtype=torch.int64)
    known = ArrayPictures(images.to(torch.uint8), labels, ("one",), fitting=Fitting((1, 4, 4)))
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    on_device(known, META).batch(torch.arange(40), crops=generators[0])
    known.batch(torch.arange(40), crops=generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_pictures_held_in_memory_are_the_same() -> None:
    known = pictures(5)
    assert torch.equal(everything(held_in_memory(known)), everything(known))
