"""The guarded classifier as one ONNX graph.

`image` (uint8, NHWC) -> rectify, score, choose, classify once -> `logits`, `label`, `score`,
`flagged`. The detector stays in float32.
"""

import logging
import warnings
from typing import Final, final

import onnx
import torch
from torch import Tensor, nn

from prn_guard.contract import IMAGE, LOGITS, OUTPUTS, InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.target import Target

OPSET: Final = 20
"""From opset 22 on, onnxruntime 1.31 has no CUDA kernel for MaxPool."""


@final
class ServedGuard(nn.Module):
    """A guarded classifier that takes pictures as a server receives them."""

    def __init__(self, guarded: GuardedClassifier) -> None:
        super().__init__()
        self.guarded = guarded

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, label, score and flag of `image`, `(N, H, W, C)` uint8."""
        output = self.guarded(unit_pixels(image))
        return output.logits, output.label, output.score, output.flagged


@final
class ServedTarget(nn.Module):
    """The bare target behind the same input, to compare with."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, K)` of `image`, `(N, H, W, C)` uint8."""
        logits: Tensor = self.target(unit_pixels(image))
        return logits


def unit_pixels(image: Tensor) -> Tensor:
    """`(N, C, H, W)` float32 in [0, 1] of `(N, H, W, C)` uint8."""
    return image.float().permute(0, 3, 1, 2).contiguous() / 255


def guarded_graph(guarded: GuardedClassifier, spec: InputSpec) -> bytes:
    """Export the guard as a serialised ONNX model.

    Raises:
        TargetError: the target has no ONNX form.
    """
    return _export(ServedGuard(guarded), spec, OUTPUTS)


def bare_graph(target: Target, spec: InputSpec) -> bytes:
    """Export the target alone, with the same input; for comparison only.

    Raises:
        TargetError: the target has no ONNX form.
    """
    return _export(ServedTarget(target), spec, (LOGITS,))


def _export(module: nn.Module, spec: InputSpec, outputs: tuple[str, ...]) -> bytes:
    # Two pictures: a dimension of size one would be taken for a constant.
    example = torch.zeros(2, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Deprecations inside the exporter are not ours to mend.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the target's code makes it raise
        raise TargetError(
            f"The target cannot be exported to ONNX: {_reason(error)} It must be traceable by "
            "`torch.export`: no branches on values, no operators without an ONNX form."
        ) from error
    if program is None:
        raise TargetError("The exporter gave no graph for this target.")
    model = program.model_proto
    _name_batch(model)
    _forget_sources(model)
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def _reason(error: BaseException) -> str:
    # The exporter wraps the cause in pages of advice on how to write to its authors.
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}."


def _name_batch(model: onnx.ModelProto) -> None:
    """Give the batch dimension one name on every input and output."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _forget_sources(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of this machine: stack traces with source paths."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    parts = (
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.functions,
    )
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
