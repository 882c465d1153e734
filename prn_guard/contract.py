"""What the guarded graph takes and gives, and the manifest beside it.

This module is the only thing that the workbench (which writes the graph) and the runtime (which
runs it) must agree on. It imports no framework.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prn_guard.errors import ArtifactError
from prn_guard.files import write_json
from prn_guard.plain_files import read_bounded
from prn_guard.strict_json import parse_json

MANIFEST_VERSION: Final = 2
GRAPH_FILE = "guarded.onnx"
BARE_FILE = "bare.onnx"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
SEAL = "manifest_sha256"
MAX_MANIFEST_BYTES: Final = 16 << 20
"""A hundred times what a manifest of twenty thousand classes takes."""
MAX_GRAPH_BYTES: Final = (1 << 31) - 1
"""What protobuf can hold in one message."""

IMAGE = "image"
LOGITS = "logits"
LABEL = "label"
SCORE = "score"
FLAGGED = "flagged"
OUTPUTS = (LOGITS, LABEL, SCORE, FLAGGED)
RECTIFIED = "rectified"
"""On request only: the rectified picture, whether it was flagged or not."""

REPEATING: Final = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run a subgraph as often as a number in the graph says, up to 2^63 times: the
runtime loads no graph that holds one, so the workbench takes none."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
# Far inside float32, in which they are used: beyond it a threshold would be infinite, a std 0.
Single = Annotated[float, Field(ge=-1e30, le=1e30)]
PositiveSingle = Annotated[float, Field(ge=1e-30, le=1e30)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Record):
    """How the target wants its pictures; the wrapped target applies it to pixels in [0, 1].

    The target is fed `(pixels * pixel_range - mean) / std`, channel by channel. `pixel_range` is 1
    for classifiers that take [0, 1] and 255 for those that take 0..255; `mean` and `std` are on
    that same scale. `layout` is the order of the axes that the classifier itself takes.
    """

    channels: Literal[1, 3]
    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    mean: tuple[Single, ...]
    std: tuple[PositiveSingle, ...]
    pixel_range: Literal[1, 255] = 1
    channel_order: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean and std need {self.channels} values each, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if (self.channel_order == "gray") != (self.channels == 1):
            raise ValueError("channel_order 'gray' goes with 1 channel, 'rgb' and 'bgr' with 3")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one picture."""
        return self.channels, self.height, self.width


class Ball(_Record):
    """The ball of perturbations that the guard was trained against."""

    norm: Literal["linf", "l2"]
    epsilon: Positive


class FileEntry(_Record):
    """One file of the artifact and its digest."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(gt=0)]


class InputTensor(_Record):
    """The graph's one input: four axes, the first of them free.

    `uint8` values are pixels in 0..255, RGB or gray; `float32` ones are on the classifier's own
    scale, in its own channel order, as the `InputSpec` beside says.
    """

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["uint8", "float32"]
    layout: Literal["nhwc", "nchw"]

    def shape(self, spec: InputSpec) -> tuple[int, int, int]:
        """Axes after the batch of a graph that takes pictures of `spec`."""
        channels, height, width = spec.shape
        return (height, width, channels) if self.layout == "nhwc" else (channels, height, width)


UINT8_NHWC: Final = InputTensor(name=IMAGE, dtype="uint8", layout="nhwc")


class OutputNames(_Record):
    """What the guard's answers are called among the graph's outputs."""

    logits: str = LOGITS
    label: str = LABEL
    score: str = SCORE
    flagged: str = FLAGGED
    rectified: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None
    """Float32 `(N, H, W, C)` in [0, 1], RGB or gray. None, and not written, where the graph has no
    such output."""

    @property
    def on_request(self) -> tuple[str, ...]:
        """Names of what not every graph answers: rectified, or nothing."""
        return () if self.rectified is None else (self.rectified,)

    def all(self) -> tuple[str, str, str, str]:
        """The four names: logits, label, score, flagged."""
        return self.logits, self.label, self.score, self.flagged


class Classifier(_Record):
    """The classifier inside the graph."""

    source: Literal["torch", "onnx"]
    file_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """Digest of the ONNX file that was wrapped; None for a torch module."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 over its nodes and initialisers as they stand in the graph."""


class Placement(_Record):
    """Which of the graph's nodes would leave the GPU."""

    basis: Literal["kernel table", "session"]
    """The table of CUDA kernels, or what a session on a GPU answered."""
    onnxruntime: str
    nodes: Annotated[int, Field(gt=0)]
    on_cpu: tuple[str, ...]


class Detection(_Record):
    """The detector's working point: `flagged = score > threshold`."""

    threshold: Single
    fitted_threshold: Single
    """Before it was calibrated again on the exported graph; the same where it was not."""
    target_false_positive_rate: Fraction
    calibration_pictures: Annotated[int, Field(gt=0)]


class Parity(_Record):
    """How the graph compares with the torch modules, measured at export."""

    pictures: Annotated[int, Field(gt=0)]
    """As they came and under perturbations."""
    driven: Annotated[int, Field(ge=0)]
    """Further pictures, blended with a perturbation until their score was at the threshold."""
    label_mismatches: Annotated[int, Field(ge=0)]
    flag_mismatches: Annotated[int, Field(ge=0)]
    differing: Annotated[int, Field(ge=0)]
    """Of `pictures`, those with another label or flag at all, inside the margins or not."""
    inside_margin: Annotated[int, Field(ge=0)]
    """Of `pictures`, those so close to the threshold or to a tie that either decision is right."""
    driven_inside_margin: Annotated[int, Field(ge=0)]
    score_margin: Positive
    logit_margin: Positive
    max_logit_difference: Annotated[float, Field(ge=0.0)]
    max_score_difference: Annotated[float, Field(ge=0.0)]
    max_rectified_difference: Annotated[
        float | None, Field(ge=0.0, exclude_if=lambda difference: difference is None)
    ] = None
    """Of values in [0, 1]; None, and not written, where the graph does not answer with them."""
    unflagged_bit_equal: bool


class Manifest(_Record):
    """`manifest.json`: all that a reader of the graph needs to know, checked before load."""

    manifest_version: Literal[2] = MANIFEST_VERSION
    created_by: str
    versions: dict[str, str]
    opset: Annotated[int, Field(ge=13, le=25)]
    precision: Literal["fp32", "fp16"]
    input: InputSpec
    tensor: InputTensor
    resize: Annotated[int, Field(ge=8)] | None = None
    """What the shorter side of training pictures was brought to before the centre was cut."""
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    outputs: Annotated[tuple[str, ...], Field(min_length=4)]
    """All of the graph's outputs, in its order."""
    names: OutputNames
    classifier: Classifier
    trained_against: Ball
    detection: Detection
    parity: Parity
    placement: Placement
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_name_per_output(self) -> Self:
        answers = (*self.names.all(), *self.names.on_request)
        if len(set(answers)) != len(answers) or len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs {self.outputs} and names {answers} must hold none twice")
        if not set(answers) <= set(self.outputs):
            raise ValueError(f"names {answers} must be among the outputs {self.outputs}")
        return self

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `manifest.json` of an artifact folder.

        Raises:
            ArtifactError: the manifest is missing, is no JSON, does not follow the schema, or was
                changed since it was written.
        """
        path = folder / MANIFEST_FILE
        return cls.parse(read_bounded(path, MAX_MANIFEST_BYTES), path)

    @classmethod
    def parse(cls, text: bytes, path: Path) -> Self:
        """Parse the contents of a `manifest.json` that was read from `path`.

        Raises:
            ArtifactError: as for `read`.
        """
        content = parse_json(text, path)
        found = content.pop(SEAL, None) if isinstance(content, dict) else None
        try:
            # As JSON, because strict parsing takes its arrays for tuples and nothing for a number
            # that is none.
            manifest = cls.model_validate_json(_canonical(content), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ArtifactError(
                f"{path} does not follow manifest version {MANIFEST_VERSION} "
                f"({error.error_count()} problem(s); first at {place[:200]!r}: {first['msg']}). "
                "Export the guard anew, or use the prn-guard version that wrote it."
            ) from error
        if found != seal(content):
            raise ArtifactError(
                f"{path} was changed since it was exported: its contents do not have the digest "
                f"that it states as {SEAL}. Restore the file, or export the guard anew."
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        content = self.model_dump(mode="json")
        write_json(folder / MANIFEST_FILE, {**content, SEAL: seal(content)})


def seal(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's contents, whatever their order and spacing.

    It shows that a manifest was edited or damaged. Whoever can replace the whole artifact can
    compute it too: against that only a signature helps.
    """
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
