"""The text of `config.pbtxt`, Triton's model configuration for its ONNX Runtime backend.

Field names and their meaning: `model_config.proto` of Triton's `common` repository. What reaches
onnxruntime: `src/onnxruntime.cc` of its `onnxruntime_backend` repository.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from export.triton_interface import Interface, Tensor
from prn_guard.errors import InvalidArgumentError
from prn_guard.version import __version__

Device = Literal["gpu", "cpu"]

LABELS_FILE: Final = "labels.txt"
PREFERRED: Final = (8, 32)
# KServe asks for this form; with "-predictor-00001" behind it, it must fit a label of 63.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
_MOST = 2**31 - 1  # what every number of Triton's configuration can hold
_SEAL = "# sha256 of the rest: "


@dataclass(frozen=True)
class Settings:
    """How a model is to be served.

    Args:
        name: of the model, and of the InferenceService.
        version: a number above 0.
        max_batch_size: pictures that Triton puts into one run, and the most that one request may
            hold. 64 pictures of 224 x 224 keep a GPU busy; larger batches gain little and cost
            memory on every instance.
        preferred_batch_sizes: run as soon as so many wait. None takes those of 8 and 32 that fit.
        max_queue_delay_us: the longest that a request waits for others, in microseconds. One
            millisecond lets batches form under load; a lone request pays it in full.
        device: "gpu", where nothing runs without one, or "cpu".
        instances: copies of the model on each GPU, or on the CPU. One: a second takes its memory
            again, and pays only where one leaves the GPU idle.
        gpus: numbers of the GPUs to use; empty takes all that Triton sees.
        warm_up: run every batch size above once before the model counts as ready; the first run of
            a shape selects kernels and takes far longer than the next.

    Raises:
        InvalidArgumentError: a value lies outside these bounds.
    """

    name: str = "guarded"
    version: int = 1
    max_batch_size: int = 64
    preferred_batch_sizes: tuple[int, ...] | None = None
    max_queue_delay_us: int = 1000
    device: Device = "gpu"
    instances: int = 1
    gpus: tuple[int, ...] = ()
    warm_up: bool = True

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not _NAME.fullmatch(self.name):
            raise InvalidArgumentError(
                f"The name is {self.name!r}; expected at most 47 of a-z, 0-9 and '-', a letter "
                "first and no '-' last, for Kubernetes takes no others."
            )
        for what, value, lowest in (
            ("version", self.version, 1),
            ("max_batch_size", self.max_batch_size, 1),
            ("max_queue_delay_us", self.max_queue_delay_us, 0),
            ("instances", self.instances, 1),
        ):
            if not lowest <= value <= _MOST:
                raise InvalidArgumentError(
                    f"{what} is {value}; expected at least {lowest} and at most {_MOST}."
                )
        bad = [n for n in self.preferred_batch_sizes or () if not 1 <= n <= self.max_batch_size]
        if bad:
            raise InvalidArgumentError(
                f"The preferred batch size {bad[0]} is not between 1 and max_batch_size "
                f"{self.max_batch_size}. Change one of the two."
            )
        if self.device not in get_args(Device):
            raise InvalidArgumentError(f"device is {self.device!r}; expected 'gpu' or 'cpu'.")
        if self.gpus and (self.device == "cpu" or min(self.gpus) < 0):
            raise InvalidArgumentError(
                f"gpus is {self.gpus} with device {self.device!r}; GPUs are numbered from 0, and "
                "go with device 'gpu'."
            )

    @property
    def preferred(self) -> tuple[int, ...]:
        """The preferred batch sizes, ascending, each once."""
        sizes = self.preferred_batch_sizes
        if sizes is None:
            sizes = tuple(size for size in PREFERRED if size <= self.max_batch_size)
        return tuple(sorted(set(sizes)))


def config_text(interface: Interface, settings: Settings, versions: Iterable[int]) -> str:
    """The text of config.pbtxt.

    Args:
        interface: the model's tensors.
        settings: how to serve it.
        versions: the versions to serve, all with the same interface.
    """
    lines = [
        f"name: {quoted(settings.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {settings.max_batch_size}",
        *_block("input", _tensor(interface.input)),
    ]
    for output in interface.outputs:
        labels = (
            [f"label_filename: {quoted(LABELS_FILE)}"] if output.name == interface.logits else []
        )
        lines += _block("output", [*_tensor(output), *labels])
    lines += [
        # A folder that is still being copied is not served before this file lists it.
        f"version_policy {{ specific {{ versions: {_numbers(sorted(versions))} }} }}",
        *_block("instance_group", _instances(settings)),
        *_block("dynamic_batching", _batching(settings)),
        *(_NO_TF32 if settings.device == "gpu" else []),
        *(_warm_up(interface.input, settings) if settings.warm_up else []),
    ]
    body = "\n".join(lines) + "\n"
    return f"# Written by prn-guard {__version__}: python -m export triton\n{_seal(body)}{body}"


def as_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Read an option's list of numbers, as `8,32`.

    Raises:
        InvalidArgumentError: not whole numbers with commas between them.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidArgumentError(
            f"{option} is {text!r}; expected whole numbers with commas between them, as 8,32."
        ) from error


def is_untouched(text: str) -> bool:
    """Whether `text` is a config.pbtxt just as `config_text` wrote it."""
    _, _, rest = text.partition("\n")
    seal, newline, body = rest.partition("\n")
    return seal + newline == _seal(body)


def quoted(text: str) -> str:
    r"""`text` as a string of protobuf's text format, in ASCII.

    Bytes other than printable ASCII are written as `\ooo`, so that no name can end the string.
    """
    characters = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return '"' + "".join(characters) + '"'


# TF32 in the detector's DCT shifts the log features by 0.84 on average, float32 by 4e-4. Parameters
# of the accelerator "cuda" are handed to onnxruntime's CUDA provider as they stand, which refuses
# any that it does not know: no server can ignore this one.
_NO_TF32: Final = (
    "optimization {",
    "  execution_accelerators {",
    "    gpu_execution_accelerator {",
    '      name: "cuda"',
    '      parameters { key: "use_tf32" value: "0" }',
    "    }",
    "  }",
    "}",
)


def _tensor(tensor: Tensor) -> list[str]:
    lines = [f"name: {quoted(tensor.name)}", f"data_type: {tensor.data_type}"]
    if tensor.dims:
        return [*lines, f"dims: {_numbers(tensor.dims)}"]
    # Triton takes no tensor without dims: one value per picture is [N] in the graph and [N, 1] to
    # clients.
    return [*lines, "dims: [1]", "reshape { shape: [] }"]


def _instances(settings: Settings) -> list[str]:
    lines = [f"kind: KIND_{settings.device.upper()}", f"count: {settings.instances}"]
    return [*lines, f"gpus: {_numbers(settings.gpus)}"] if settings.gpus else lines


def _batching(settings: Settings) -> list[str]:
    lines = [f"max_queue_delay_microseconds: {settings.max_queue_delay_us}"]
    if settings.preferred:
        lines.insert(0, f"preferred_batch_size: {_numbers(settings.preferred)}")
    return lines


def _warm_up(tensor: Tensor, settings: Settings) -> list[str]:
    # Triton fills random data with random bytes: fine pixels for uint8, but as float32 anything up
    # to infinity (tritonserver 2.51: down to -3e38), far from any picture.
    kinds = ("zero", "random") if tensor.data_type == "TYPE_UINT8" else ("zero",)
    shape = f"data_type: {tensor.data_type} dims: {_numbers(tensor.dims)}"
    lines: list[str] = []
    for size in sorted({1, *settings.preferred, settings.max_batch_size}):
        for kind in kinds:
            sample = [
                f"name: {quoted(f'{kind} x {size}')}",
                f"batch_size: {size}",
                f"inputs {{ key: {quoted(tensor.name)} value {{ {shape} {kind}_data: true }} }}",
            ]
            lines += _block("model_warmup", sample)
    return lines


def _block(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _numbers(values: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, values)) + "]"


def _seal(body: str) -> str:
    return f"{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}\n"
