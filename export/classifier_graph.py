"""The classifier as an ONNX model of its own, ready to have the guard put in front of it.

A torch module is exported, in float16 by converting the module itself. A classifier that came as an
ONNX file is taken as it is, node for node; in float16 by onnxruntime's own converter.

A file that ends in a Softmax answers with probabilities. The guard's `logits` are then what that
Softmax reads, so that they mean the same for every classifier: what the torch modules answer, what
`label` is the highest of, and what `Verdict.probabilities` takes the softmax of. The probabilities
stay among the outputs of a drop-in graph, under their own name.
"""

import copy
import hashlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import onnx
import torch
from torch import Tensor, nn

from export.exporter import OPSET, forget_sources, to_onnx
from prn_guard.contract import IMAGE, LOGITS, InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.target import Target
from training.targets.onnx_graphs import FREE_BATCH, STANDARD_DOMAINS, final_softmax

if TYPE_CHECKING:
    from training.targets.onnx_files import OnnxClassifier

Precision = Literal["fp32", "fp16"]


@final
@dataclass(frozen=True, kw_only=True)
class ClassifierGraph:
    """A classifier's ONNX model, which takes float32 pictures on its own scale.

    Args:
        model: free in its batch axis.
        source: where it came from.
        input_name: of its picture.
        logits_name: of the output `(N, K)` that decides.
        file_sha256: of the user's file; None for a torch module.
        before_softmax: of what the Softmax at the file's end reads, `K` values for each picture, if
            the output that decides is probabilities; None if it is logits.
    """

    model: onnx.ModelProto
    source: Literal["torch", "onnx"]
    input_name: str
    logits_name: str
    file_sha256: str | None
    before_softmax: str | None = None

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return int(next(item.version for item in self.model.opset_import if item.domain == ""))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, in order."""
        return tuple(output.name for output in self.model.graph.output)


def from_torch(target: Target, *, precision: Precision) -> ClassifierGraph:
    """Export the wrapped classifier, without the scaling that `Target` applies.

    Raises:
        TargetError: it has no ONNX form, or fails in float16.
    """
    half = precision == "fp16"
    classifier = HalfClassifier(target.classifier) if half else target.classifier
    model = to_onnx(classifier, _example(target.spec), opset=OPSET, image=IMAGE, outputs=(LOGITS,))
    return ClassifierGraph(
        model=model, source="torch", input_name=IMAGE, logits_name=LOGITS, file_sha256=None
    )


def from_onnx(classifier: "OnnxClassifier", *, precision: Precision) -> ClassifierGraph:
    """Take a classifier's own ONNX model.

    Raises:
        TargetError: it has no float16 form.
    """
    model = _half_model(classifier.model) if precision == "fp16" else classifier.model
    model = copy.deepcopy(model)
    if precision == "fp32":
        model.graph.value_info.extend(_stated_shapes(classifier))
    forget_sources(model)
    del model.training_info[:]
    for entry in model.opset_import:
        # The standard domain by its long name; nodes name no domain.
        entry.domain = "" if entry.domain in STANDARD_DOMAINS else entry.domain
    _close_weights(model.graph)
    _declare_answer(model.graph, classifier)
    softmax = (
        final_softmax(model.graph, classifier.output_name) if classifier.ends_in_softmax else None
    )
    return ClassifierGraph(
        model=model,
        source="onnx",
        input_name=classifier.input_name,
        logits_name=classifier.output_name,
        file_sha256=hashlib.sha256(classifier.content).hexdigest(),
        before_softmax=None if softmax is None else softmax.input[0],
    )


def _stated_shapes(classifier: "OnnxClassifier") -> list[onnx.ValueInfoProto]:
    """What the file states of its inner tensors, unless that holds for its own batch size only.

    onnxruntime fuses operators by these shapes: without them a vision transformer's logits differed
    by 1.7e-6 from those of its file.
    """
    file = onnx.load_model_from_string(classifier.content).graph
    picture = next(value for value in file.input if value.name == classifier.input_name)
    batch = picture.type.tensor_type.shape.dim[0]
    return [] if batch.HasField("dim_value") else list(file.value_info)


def _close_weights(graph: onnx.GraphProto) -> None:
    """Leave the picture as the only input: old files also list weights, which clients could set."""
    weights = {initialiser.name for initialiser in graph.initializer}
    pictures = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(pictures)


def _declare_answer(graph: onnx.GraphProto, classifier: "OnnxClassifier") -> None:
    """State the answer's shape, which was found by running it; files may leave it open."""
    answer = next(value for value in graph.output if value.name == classifier.output_name)
    kind = onnx.TensorProto.FLOAT
    answer.type.CopyFrom(
        onnx.helper.make_tensor_type_proto(kind, [FREE_BATCH, classifier.class_count])
    )


@final
class HalfClassifier(nn.Module):
    """A classifier computing in float16 between float32 pictures and float32 logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).half()

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` float32 of `images` on the classifier's own scale."""
        logits: Tensor = self.classifier(images.half())
        return logits.float()


def _example(spec: InputSpec) -> Tensor:
    channels, height, width = spec.shape
    nhwc = spec.layout == "nhwc"
    return torch.zeros((2, height, width, channels) if nhwc else (2, channels, height, width))


# Operators of the file's decision or range that lose more than they save in half precision.
_KEPT_FULL: Final = ["Softmax", "LogSoftmax", "ArgMax", "Resize"]


def _half_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16 between inputs and outputs as they were.

    Weights below the smallest float16 become zero or that number, as the converter sees fit.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each tensor with values that it rounds
            half: onnx.ModelProto = convert_float_to_float16(
                copy.deepcopy(model), keep_io_types=True, op_block_list=_KEPT_FULL
            )
        OnnxModel.graph_topological_sort(half.graph)  # it appends the casts of inputs at the end
        onnx.checker.check_model(half, full_check=True)
    except Exception as error:  # the converter raises whatever a graph makes it raise
        raise TargetError(
            f"The classifier's ONNX file cannot be converted to float16: {type(error).__name__}: "
            f"{error}. Export with --precision fp32."
        ) from error
    return half
