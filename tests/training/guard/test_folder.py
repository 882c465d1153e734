"""A guard folder comes back as it was fitted, and damage is noticed before anything is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.errors import ArtifactError, TargetError
from prn_guard.nn.target import state_digest
from tests.training.small import NAMES, trained_target
from tests.training.tiny_guard import FACTORY, TEST, make_workplace
from training.checkpoint import load_tensors, save_tensors
from training.guard.folder import DIGESTED, digests, load_bank, load_guard, read_record


@pytest.fixture
def folder(guard_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "guard"
    shutil.copytree(guard_folder, copy)
    return copy


def _edit_record(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "guard.json").read_text())
    (folder / "guard.json").write_text(json.dumps(record | changes))


def test_a_whole_folder_comes_back(guard_folder: Path) -> None:
    guarded, record = load_guard(guard_folder)
    assert not guarded.training
    assert not any(value.requires_grad for value in guarded.parameters())
    assert state_digest(guarded.target) == record.target_digest == state_digest(trained_target())
    assert float(guarded.detector.threshold) == record.threshold
    assert len(record.class_names) == len(NAMES)
    assert record.test["pictures"] == TEST
    bank = load_bank(guard_folder)
    assert (len(bank.training), len(bank.unseen)) == (2, 2)
    assert record.files == digests(guard_folder)


@pytest.mark.parametrize("name", DIGESTED)
@pytest.mark.parametrize("place", [0, 20, -1, -41])
def test_a_flipped_bit_is_noticed(folder: Path, name: str, place: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        load_guard(folder)


@pytest.mark.parametrize("name", DIGESTED)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_guard(folder)


@pytest.mark.parametrize("name", DIGESTED)
def test_a_file_cut_short_is_noticed(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=name):
        load_guard(folder)


@pytest.mark.parametrize("name", ["rectifier.safetensors", "detector.safetensors"])
def test_a_value_that_is_no_number_is_noticed(folder: Path, name: str) -> None:
    tensors, _ = load_tensors(folder / name)
    first = next(iter(tensors))
    save_tensors(folder / name, tensors | {first: tensors[first] * torch.nan}, {})
    _edit_record(folder, files=digests(folder))
    with pytest.raises(ArtifactError, match=f"tensor {first} holds values that are not finite"):
        load_guard(folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    record = read_record(folder)
    wider = record.rectifier.model_copy(update={"width": 5})
    _edit_record(folder, rectifier=wider.model_dump())
    with pytest.raises(ArtifactError, match="does not belong to the architecture"):
        load_guard(folder)


@pytest.mark.parametrize(
    "changes", [{"norm": "l7"}, {"threshold": "high"}, {"surplus": 1}, {"input": None}]
)
def test_a_record_of_another_form_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    _edit_record(folder, **changes)
    with pytest.raises(ArtifactError, match=f"{next(iter(changes))}.*Fit the guard anew"):
        load_guard(folder)


@pytest.mark.parametrize("version", [2, 4])
def test_a_record_of_another_version_is_refused(folder: Path, version: int) -> None:
    _edit_record(folder, record_version=version, detector_pool=1)
    with pytest.raises(ArtifactError, match=f"of version {version}; .* version 3.* guard anew"):
        load_guard(folder)


def test_a_detector_of_another_kernel_is_refused(folder: Path) -> None:
    _edit_record(folder, detector={"kernel": "rbf", "features": "bands"})
    with pytest.raises(ArtifactError, match="does not belong to the architecture"):
        load_guard(folder)


def test_a_record_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "guard.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        load_guard(folder)


def test_a_folder_without_a_guard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished guard"):
        load_guard(tmp_path / "nowhere")


def test_a_factory_that_has_changed_is_noticed(guard_folder: Path, tmp_path: Path) -> None:
    work = make_workplace(tmp_path)
    copy = tmp_path / "guard"
    shutil.copytree(guard_folder, copy)
    _edit_record(copy, target=work.target)
    assert state_digest(load_guard(copy)[0].target) == state_digest(trained_target())
    for before, after in (
        ("nn.Linear(216, 24)", "nn.Linear(216, 25)"),
        ("std=(0.25,)", "std=(0.5,)"),
        ("return Target", "raise OSError"),
    ):
        work.factory.write_text(FACTORY.replace(before, after))
        with pytest.raises(TargetError):
            load_guard(copy)
    work.factory.unlink()
    with pytest.raises(TargetError, match=r"no file .*factory\.py"):
        load_guard(copy)
