"""`python -m training` with input that makes no sense: exit code 2, and what to do about it."""

import errno
import os
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import Ended, Run, assert_refused
from tests.training.small import trained_target
from tests.training.tiny_guard import EPSILON, FIT, Workplace, write_blank_idx
from training.checkpoint import save_tensors


def _rgb_folder(folder: Path) -> Path:
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / "1.png")
    return folder


def _cut_short(folder: Path) -> Path:
    write_blank_idx(folder)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 4, 12, 12))
    return folder


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


PICTURES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing folder": (lambda folder: folder, ("no such folder", "Expected fashion-mnist")),
    "empty folder": (_empty, ("has no subfolders", "Expected one per class")),
    "too small": (partial(write_blank_idx, side=9), ("9x9", "takes 12x12", "--resize 12")),
    "too large": (partial(write_blank_idx, side=30), ("30x30", "12x12", "--resize 14")),
    "channels": (_rgb_folder, ("3 channels", "target takes 1", "Convert")),
    "labels": (partial(write_blank_idx, label=7), ("8 classes", "answers with 3", "Give pictures")),
    "damaged": (_cut_short, ("promises 576 values", "only 0", "fetch it again")),
}


@pytest.mark.parametrize("kind", list(PICTURES))
def test_pictures_that_do_not_fit_are_refused(attack: Run, tmp_path: Path, kind: str) -> None:
    make, parts = PICTURES[kind]
    assert_refused(attack("--images", make(tmp_path / "pictures")), *parts)
    assert not list(tmp_path.glob("*p.safetensors*"))


def _changed_weights(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    state = trained_target().classifier.state_dict()
    save_tensors(path, state | {name: change(state[name])}, {})
    return path


WEIGHTS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda path: path, ("no weights file",)),
    "another architecture": (
        lambda path: _changed_weights(path, "4.weight", lambda value: value[:, :5]),
        ("do not belong", "4.weight is (24, 5), expected (24, 216)", "Give the checkpoint"),
    ),
    "NaN": (
        lambda path: _changed_weights(path, "4.bias", lambda value: value * torch.nan),
        ("'4.bias' holds 24 values that are NaN", "give another"),
    ),
    "damaged": (lambda path: path.write_bytes(b"x" * 99) and path, ("damaged", "save it again")),
}


@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_weights_that_do_not_fit_are_refused(attack: Run, tmp_path: Path, kind: str) -> None:
    make, parts = WEIGHTS[kind]
    assert_refused(attack("--weights", make(tmp_path / "w.safetensors")), *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--epsilon", "0"), ("epsilon is 0", "above 0", "10/255")),
        (("--epsilon", "-0.1"), ("epsilon is -0.1", "above 0")),
        (("--epsilon", "1.5"), ("epsilon is 1.5, above 1", "Did you mean 1.5/255?")),
        (("--epsilon", "10"), ("epsilon is 10, above 1", "Did you mean 10/255?")),
        (("--epsilon", "ten"), ("'ten'", "Write it on [0, 1] pixels")),
        (("--norm", "l2", "--epsilon", "12.5"), ("at most 12", "divide by 255")),
        (("--method", "magic"), ("no attack 'magic'", "choose one of: sign-pgd")),
        (("--target-class", "3"), ("target_class is 3", "0 to 2")),
        (("--target", "nowhere.py:build"), ("no file nowhere.py", "path/to/file.py:factory")),
        (("--target", "magicnet50"), ("magicnet50",)),
        (("--input-shape", "1x12x12"), ("states its own input", "Leave the options away")),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    attack: Run, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_refused(attack(*options), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [("--norm", "l1"), ("--steps", "0"), ("--seed", "-1")])
def test_options_out_of_range_are_usage_errors(attack: Run, options: tuple[str, ...]) -> None:
    ended = attack(*options)
    assert ended.code == 2
    assert options[0] in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("_quick_work")
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--epsilon", "10"), ("Did you mean 10/255?",)),
        (("--held-out", "3"), ("3 of 3 perturbations", "at least 1 left")),
        (("--false-positive-rate", "1.5"), ("1.5", "between 0 and 1")),
        (("--false-positive-rate", "0.01"), ("36 clean pictures", "at least 99", "Give more")),
        (("--limit", "50"), ("50 training pictures", "at least 100")),
        (("--epochs", "0"), ("epochs is 0", "above 0")),
        (("--test-images", "nowhere"), ("no such folder",)),
    ],
)
def test_fits_that_make_no_sense_are_refused(
    run: Run, work: Workplace, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    command = ("fit", *work.arguments(), "--test-images", work.images, "--epsilon", EPSILON, *FIT)
    assert_refused(run(*command, "--out", tmp_path / "guard", *options), *parts)
    assert not (tmp_path / "guard" / "guard.json").exists()


def test_a_guard_that_is_missing_or_tampered_with_is_refused(
    run: Run, work: Workplace, guard_folder: Path, tmp_path: Path
) -> None:
    def evaluate(folder: Path) -> Ended:
        return run("evaluate", folder, "--images", work.images, "--out", tmp_path / "out")

    assert_refused(evaluate(tmp_path / "nowhere"), "no finished guard", "guard.json is missing")
    copy = tmp_path / "guard"
    shutil.copytree(guard_folder, copy)
    content = bytearray((copy / "rectifier.safetensors").read_bytes())
    content[-1] ^= 128
    (copy / "rectifier.safetensors").write_bytes(content)
    assert_refused(evaluate(copy), "rectifier.safetensors has changed", "fit the guard anew")
    shutil.copy(guard_folder / "rectifier.safetensors", copy)
    (copy / "guard.json").write_text((copy / "guard.json").read_text()[:-9])
    assert_refused(evaluate(copy), "guard.json cannot be read as JSON")
    assert not (tmp_path / "out").exists()


def _full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("_quick_work")
@pytest.mark.parametrize("command", ["attack", "fit", "evaluate"])
def test_a_full_disk_leaves_nothing_half_written(
    run: Run,
    work: Workplace,
    guard_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    (tmp_path / "p.safetensors").write_bytes(b"from before")
    arguments = {
        "attack": ("attack", *work.arguments(), "--epsilon", EPSILON, "--steps", 2),
        "fit": ("fit", *work.arguments(), "--test-images", work.images, "--epsilon", EPSILON, *FIT),
        "evaluate": ("evaluate", guard_folder, "--images", work.images),
    }
    out = tmp_path / ("p.safetensors" if command == "attack" else "out")
    monkeypatch.setattr("prn_guard.files.os.fsync", _full)
    ended = run(*arguments[command], "--out", out)
    assert_refused(ended, "could not be written", "No space left", "Free some space")
    assert (tmp_path / "p.safetensors").read_bytes() == b"from before"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "p.safetensors"]
