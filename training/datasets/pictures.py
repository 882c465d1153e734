"""What every set of labelled pictures offers, and the sets that hold or select pictures."""

from collections.abc import Iterator
from typing import Protocol, final

import torch
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.datasets.fitting import Fitting, Shape, check_fit, draw_places, fit, to_images


class Pictures(Protocol):
    """Labelled pictures of one size, read in batches."""

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every picture."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `batch` puts the pictures."""
        ...

    @property
    def labels(self) -> Tensor:
        """Class indices `(N,)` int64 on the CPU."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        """Read the pictures at `indices`.

        Args:
            indices: `(B,)` int64, 0..N-1.
            crops: CPU generator that draws where pictures larger than `shape` are cut (four
                corners and centre); None cuts at the centre.

        Returns:
            `(B, C, H, W)` float32 in [0, 1] on `device`.
        """
        ...


@final
class ArrayPictures:
    """Pictures held in memory.

    Args:
        images: `(N, C, H, W)` uint8, 0..255; their device is where batches are put.
        labels: `(N,)` int64.
        class_names: one name per class.
        fitting: size to bring them to, applied when they are read; None leaves them as they are.

    Raises:
        DataError: the tensors do not belong together, or the pictures do not fit.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: tuple[str, ...],
        *,
        fitting: Fitting | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(
                f"The pictures are {images.dtype} {tuple(images.shape)}; expected uint8 of shape "
                "(pictures, channels, height, width). Give 8-bit pixels, 0..255."
            )
        check_labels(labels, len(images), class_names)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        self._fitting = fitting or Fitting(shape)
        check_fit(shape, self._fitting, "Each picture of the set")
        self._as_they_are = shape[1:] == self._fitting.size[1:] and self._fitting.resize is None
        self._images = images
        self._labels = labels
        self._class_names = class_names

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every picture."""
        return self._fitting.size

    @property
    def device(self) -> torch.device:
        """Where the pictures are held."""
        return self._images.device

    @property
    def labels(self) -> Tensor:
        """Class indices `(N,)` int64."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        return self._class_names

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        """Read pictures as `Pictures.batch` says: `(B, C, H, W)` float32 in [0, 1]."""
        check_indices(indices, len(self))
        places = draw_places(len(indices), crops)
        chosen = self._images[indices]
        if self._as_they_are:
            return to_images(chosen.expand(-1, self.shape[0], -1, -1))
        fitted = [fit(one, self._fitting, at) for one, at in zip(chosen, places, strict=True)]
        return to_images(torch.stack(fitted))


@final
class Subset:
    """Some pictures of a set, in a stated order.

    Args:
        pictures: the whole set.
        indices: `(M,)` int64, 0..N-1; picture `i` of the subset is picture `indices[i]`.

    Raises:
        InvalidArgumentError: the indices are none, or do not point into the set.
    """

    def __init__(self, pictures: Pictures, indices: Tensor) -> None:
        check_indices(indices, len(pictures))
        self._pictures = pictures
        self._indices = indices

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every picture."""
        return self._pictures.shape

    @property
    def device(self) -> torch.device:
        """Where `batch` puts the pictures."""
        return self._pictures.device

    @property
    def labels(self) -> Tensor:
        """Class indices `(M,)` int64."""
        return self._pictures.labels[self._indices]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class of the whole set, by index."""
        return self._pictures.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        """Read pictures as `Pictures.batch` says; `indices` count inside the subset."""
        check_indices(indices, len(self))
        return self._pictures.batch(self._indices[indices], crops=crops)


def even_positions(count: int, most: int) -> Tensor:
    """At most `most` positions `(min(count, most),)` int64 in 0..count-1, evenly spaced."""
    chosen = min(count, most)
    return torch.arange(chosen) * count // chosen


def evenly_spaced(pictures: Pictures, most: int) -> Subset:
    """At most `most` of the pictures, evenly spaced over the set."""
    return Subset(pictures, even_positions(len(pictures), most))


def batches(pictures: Pictures, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read all pictures in order, cut at the centre.

    Yields:
        images `(B, C, H, W)` float32 in [0, 1] and labels `(B,)` int64; the last batch may be
        smaller.

    Raises:
        InvalidArgumentError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InvalidArgumentError(f"batch_size is {batch_size}; expected 1 or more.")
    labels = pictures.labels
    for indices in torch.split(torch.arange(len(pictures)), batch_size):
        yield pictures.batch(indices), labels[indices]


def check_indices(indices: Tensor, count: int) -> None:
    """Refuse indices that do not point into a set of `count` pictures.

    Raises:
        InvalidArgumentError: not a non-empty `(B,)` int64 tensor, or values outside 0..count-1.
    """
    if indices.dtype != torch.int64 or indices.ndim != 1 or not len(indices):
        raise InvalidArgumentError(
            f"The indices are {indices.dtype} {tuple(indices.shape)}; expected a non-empty int64 "
            "tensor of one dimension."
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise InvalidArgumentError(
            f"The indices run from {low} to {high}, but the set has {count} pictures: expected 0 "
            f"to {count - 1}."
        )


def check_labels(labels: Tensor, count: int, class_names: tuple[str, ...]) -> None:
    """Refuse labels that do not belong to `count` pictures of `class_names`.

    Raises:
        DataError: no pictures, wrong dtype or length, or labels outside the classes.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) != count or not count:
        raise DataError(
            f"The labels are {labels.dtype} {tuple(labels.shape)} for {count} pictures; expected "
            "int64, one per picture, and at least one picture."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise DataError(
            f"The labels run from {low} to {high}, but there are {len(class_names)} classes: "
            f"expected 0 to {len(class_names) - 1}. Check that pictures and target belong together."
        )
