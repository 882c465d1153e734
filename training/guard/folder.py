"""The guard folder: what `fit` writes and what `evaluate` and `export` read.

```
guard.json            the record: target, ball, bank, rectifier, detector, versions
target.safetensors    the classifier's weights, so that the folder is enough to rebuild it
target.onnx           instead of it, for a target that is an ONNX file: that file, byte for byte
bank.safetensors      real perturbations, those held out last
synthetic.safetensors synthetic perturbations
rectifier.safetensors
found.safetensors     what attacks on the guard found while it was trained
detector.safetensors
state/                of a fit that is under way; removed when it ends
```
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.errors import ArtifactError
from prn_guard.files import read_json, sha256_of, write_bytes, write_json
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import Target
from training.attacks.norms import Norm
from training.checkpoint import load_tensors, save_tensors
from training.perturbations.bank import Bank
from training.targets import LoadedTarget, restore_target, save_target_state

if TYPE_CHECKING:
    from training.targets.onnx_files import OnnxClassifier

RECORD = "guard.json"
TARGET = "target.safetensors"
ONNX_TARGET = "target.onnx"
BANK = "bank.safetensors"
SYNTHETIC = "synthetic.safetensors"
RECTIFIER = "rectifier.safetensors"
FOUND = "found.safetensors"
DETECTOR = "detector.safetensors"
STATE = "state"
DIGESTED = (TARGET, BANK, RECTIFIER, DETECTOR)
"""Files whose digest stands in the record: those that evaluation and export read. For a target
that is an ONNX file `ONNX_TARGET` takes the place of `TARGET`."""

RECORD_VERSION: Final = 3
"""3: the detector's `energy` is of small blocks, where 2 had bands of the whole spectrum."""


@final
class GuardRecord(BaseModel):
    """`guard.json`: everything of a fitted guard that is no tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record_version: Literal[3] = RECORD_VERSION
    target: str
    """As given: `path/to/file.py:factory`, a torchvision name or `path/to/model.onnx`."""
    target_digest: str
    """SHA-256 of the target's weights and buffers; of the file, where it is an ONNX file."""
    files: dict[str, str]
    """SHA-256 of each of `DIGESTED`: safetensors would not notice a changed weight."""
    input: InputSpec
    class_names: tuple[str, ...]
    images: str
    """The training pictures, as given."""
    resize: int | None
    limit: int | None
    data_folder: str | None
    norm: Norm
    epsilon: float
    seed: int
    bank: dict[str, Any]
    synthetic: dict[str, Any]
    rectifier: RectifierSpec
    recipe: dict[str, Any]
    rounds: list[dict[str, Any]]
    """How the guard held under each attack while it was trained."""
    detector: DetectorSpec
    threshold: float
    false_positive_rate: float
    calibration_pictures: int
    detection: dict[str, float]
    """Of the calibration pictures under the training's perturbations: the area under the ROC curve
    (`roc_area`), and by false-positive rate the share that is detected."""
    test_pictures: str
    test: dict[str, float]
    """Figures on the test pictures, reported only: nothing was chosen by them."""
    versions: dict[str, str]
    seconds: dict[str, float]


def write_record(folder: Path, record: GuardRecord) -> None:
    """Write `guard.json`; its presence says that the fit is complete."""
    write_json(folder / RECORD, record.model_dump(mode="json"))


def read_record(folder: Path) -> GuardRecord:
    """Read `guard.json`.

    Raises:
        ArtifactError: the folder holds no complete guard, or the record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        raise ArtifactError(
            f"{folder} holds no finished guard ({RECORD} is missing). Give the folder that "
            "`python -m training fit --out` wrote; if the fit was interrupted, start it again."
        )
    content = read_json(path)
    version = content.get("record_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != RECORD_VERSION:
        raise ArtifactError(
            f"{path} is a record of version {version}; expected version {RECORD_VERSION}, because "
            "the guard was fitted by another version of PRN-Guard. Fit the guard anew."
        )
    try:
        return GuardRecord.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} does not follow the record of this version: {error.errors()[0]['msg']} at "
            f"{error.errors()[0]['loc']}. Fit the guard anew."
        ) from error


def save_module(path: Path, module: nn.Module) -> None:
    """Write a module's weights and buffers, whole or not at all."""
    save_tensors(path, module.state_dict(), {})


def load_module(path: Path, module: nn.Module) -> None:
    """Give `module` the weights of a file that `save_module` wrote.

    Raises:
        ArtifactError: the file is missing or damaged, or belongs to another architecture.
    """
    tensors, _ = load_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} does not belong to the architecture that {RECORD} records: {error}"
        ) from error


def load_guard(folder: Path) -> tuple[GuardedClassifier, GuardRecord]:
    """Rebuild the guarded classifier of a finished guard folder, in evaluation mode.

    Raises:
        ArtifactError: the folder is incomplete or damaged.
        TargetError: the target cannot be rebuilt as it was when the guard was fitted.
    """
    record = read_record(folder)
    _check_files(folder, record)
    target = _restore_target(folder, record)
    rectifier = build_rectifier(record.rectifier)
    load_module(folder / RECTIFIER, rectifier)
    detector = build_detector(record.detector, record.input.height, record.input.width)
    load_module(folder / DETECTOR, detector)
    guarded = GuardedClassifier(target, rectifier, detector)
    guarded.requires_grad_(requires_grad=False)
    return guarded.eval(), record


def save_target(loaded: LoadedTarget, folder: Path) -> None:
    """Write what the target can be rebuilt from: its ONNX file, or its weights and buffers.

    Raises:
        TargetError: its state is not made of finite tensors.
        StorageError: the file cannot be written.
    """
    if loaded.onnx is None:
        save_target_state(loaded.target, folder / TARGET)
    else:
        write_bytes(folder / ONNX_TARGET, loaded.onnx.content)


def stored_onnx(folder: Path, record: GuardRecord) -> "OnnxClassifier | None":
    """The ONNX file that the guard of `folder` defends; None where its target is a torch module.

    Raises:
        ArtifactError: the file is missing or has changed since the guard was fitted.
    """
    if ONNX_TARGET not in record.files:
        return None
    from training.targets.onnx_loading import stored_classifier

    return stored_classifier(folder / ONNX_TARGET, record.input, record.target_digest)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each of `DIGESTED`, for the record."""
    names = [*DIGESTED]
    if (folder / ONNX_TARGET).exists():
        names[names.index(TARGET)] = ONNX_TARGET
    return {name: sha256_of(folder / name) for name in names}


def _restore_target(folder: Path, record: GuardRecord) -> Target:
    if ONNX_TARGET not in record.files:
        return restore_target(record.target, record.input, folder / TARGET, record.target_digest)
    from training.targets.onnx_loading import restore_onnx_target

    return restore_onnx_target(folder / ONNX_TARGET, record.input, record.target_digest)


def _check_files(folder: Path, record: GuardRecord) -> None:
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing. Restore it, or fit the guard anew.")
        if sha256_of(path) != expected:
            raise ArtifactError(
                f"{path} has changed since the guard was fitted: its sha256 is not the one that "
                f"{RECORD} states. Restore the file, or fit the guard anew."
            )


def load_bank(folder: Path) -> Bank:
    """The bank of real perturbations of a guard folder."""
    return Bank.load(folder / BANK)
