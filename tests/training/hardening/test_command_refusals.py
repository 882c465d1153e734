"""What `harden` refuses, before or instead of training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from prn_guard.errors import ArtifactError, DataError, InvalidArgumentError, TargetError
from prn_guard.files import write_json
from tests.training import tiny_onnx
from tests.training.hardening.requests import UAT, hardening, held_for_testing
from tests.training.tiny_guard import Workplace
from training.hardening.command import harden
from training.hardening.job import MethodOptions
from training.targets import load_target
from training.targets.options import InputOptions

pytestmark = pytest.mark.usefixtures("short_attacks")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, r"another seed \(5 there, 6 now\)"),
        ({"epsilon": 0.1}, r"another epsilon \(0\.15 there, 0\.1 now\)"),
        ({"method": "plain", "options": MethodOptions()}, r"another method \(uat there, plain now"),
        ({"rates": {"learning_rate": 0.02}}, r"another learning_rate \(0\.01 there, 0\.02 now"),
    ],
)
def test_the_folder_of_another_hardening_is_refused(
    hardened: Path, work: Workplace, changes: dict[str, Any], message: str
) -> None:
    request = dataclasses.replace(hardening(work, **UAT | changes), test=held_for_testing(work))
    with pytest.raises(InvalidArgumentError, match=f"holds a hardening with {message}"):
        harden(request, hardened)


def test_a_folder_of_other_files_and_a_file_are_refused(work: Workplace, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(InvalidArgumentError, match=r"exists and holds no hardening"):
            harden(hardening(work), out)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_damaged_record_is_refused(work: Workplace, tmp_path: Path) -> None:
    request = hardening(work)
    write_json(tmp_path / "out" / "request.json", request.fingerprint())
    write_json(tmp_path / "out" / "hardening.json", [])
    with pytest.raises(ArtifactError, match="is damaged"):
        harden(request, tmp_path / "out")


def test_an_onnx_target_is_refused_before_anything_is_written(
    work: Workplace, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.model().SerializeToString())
    options = InputOptions(shape=(1, 12, 12), mean=(0.5,), std=(0.25,), pixel_range=1)
    loaded = load_target(str(path), input_options=options)
    with pytest.raises(TargetError, match=r"is an ONNX file.*--weights.*python -m training fit"):
        hardening(work, loaded=loaded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 10.0}, "epsilon is 10"),
        ({"method": "magic"}, "no hardening method 'magic'"),
        ({"options": MethodOptions(sigma=0.5)}, "plain has no use for sigma"),
        ({"method": "shared", "options": MethodOptions(sharedness=5)}, "sharedness is 5"),
        (
            {"method": "shared", "options": MethodOptions(sharedness=2, sigma=1.5)},
            "sigma is 1.5",
        ),
        ({"micro_batch": 0}, "micro_batch is 0; expected 1 or more"),
        ({"micro_batch": 4}, "plain has no penalty that micro_batch could part"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    work: Workplace, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        hardening(work, **changes)


def test_too_few_pictures_to_train_on_are_refused(work: Workplace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="216 pictures to train on, fewer than one mini-batch"):
        harden(hardening(work, rates={"batch_size": 217}), tmp_path / "out")
