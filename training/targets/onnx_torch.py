"""ONNX classifiers as torch modules, for their gradients: converted, then checked.

Two converters are tried in turn, and what they make is believed only as far as it was compared
with onnxruntime. The guarded file that is exported in the end holds the ONNX graph itself, so a
conversion's error is an error of the gradients that the guard is trained by, never of its answers.

Sources: onnx2pytorch (most of opsets 7 to 25), onnx2torch (little above opset 17).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast, final

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.target import state_digest
from training.targets import onnx_graphs as graphs
from training.targets.onnx_files import OnnxClassifier
from training.targets.onnx_probe import first_line
from training.targets.onnx_runs import LARGEST_DIFFERENCE, Floats, Reference, relative_difference

_BATCH: Final = 3
# Both concern Slice: a list of slices, which torch 2.15 still takes for a tuple, and the largest
# int64, by which exporters write "to the end".
_HARMLESS: Final = ("Using a non-tuple sequence", "Truncating the start/stop/step of slice")


@final
@dataclass(frozen=True)
class Conversion:
    """A torch module that answers as an ONNX classifier does.

    Args:
        module: in evaluation mode; takes the classifier's own input, answers with logits.
        converter: the package that made it.
        relative_difference: the largest found, over the largest logit.
    """

    module: nn.Module
    converter: str
    relative_difference: float


@final
class ConvertedClassifier(nn.Module):
    """A converted network, without the warnings that converters cause at every call.

    Args:
        network: what a converter made.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of `images`, on the network's own scale and in its own layout."""
        with warnings.catch_warnings():
            for text in _HARMLESS:
                warnings.filterwarnings("ignore", text, UserWarning)
            return cast("Tensor", self.network(images))


class _MismatchError(Exception):
    """A converted module that does not behave as its classifier."""


def to_torch(classifier: OnnxClassifier, spec: InputSpec) -> nn.Module:
    """Convert a classifier to a torch module whose answers and gradients were checked.

    Args:
        classifier: what `read_onnx` read.
        spec: its input: the pictures of the check are on its scale.

    Returns:
        a module in evaluation mode that takes the classifier's own input (its layout, range and
        normalisation) and answers with logits, also where the file ends in a softmax.

    Raises:
        TargetError: no converter makes a module that agrees with onnxruntime.
    """
    return convert(classifier, spec).module


def convert(classifier: OnnxClassifier, spec: InputSpec) -> Conversion:
    """As `to_torch`, with the converter's name and the difference that was found.

    Raises:
        TargetError: as `to_torch`.
    """
    graph = graphs.for_converters(classifier.logits_graph())
    pictures = check_pictures(spec)
    reference = Reference(graph)
    expected = [cast("Floats", reference(batch)[0]) for batch in pictures]
    refusals = []
    for name, converter in _CONVERTERS.items():
        try:
            with warnings.catch_warnings():
                # Deprecations inside foreign packages; what matters is compared below.
                warnings.simplefilter("ignore")
                module = ConvertedClassifier(converter(graph)).eval()
            difference = _check(module, pictures, expected)
        except Exception as error:  # whatever a foreign converter raises on what it does not know
            refusals.append(f"{name}: {type(error).__name__.lstrip('_')}: {first_line(error)}")
            continue
        return Conversion(module, name, difference)
    raise TargetError(
        f"No converter makes a torch module of this ONNX file (opset {classifier.opset}), which "
        f"training needs for gradients. {'. '.join(refusals)}. Export the file anew at opset 18 "
        "or 20 with torch.onnx.export(..., dynamo=True), or give the torch module it came from as "
        "path/to/file.py:factory."
    )


def check_pictures(spec: InputSpec) -> list[Floats]:
    """Batches of three pictures as the classifier takes them: noise, and smooth ones."""
    generator = np.random.default_rng(0)
    channels, height, width = spec.shape
    noise = generator.random((_BATCH, channels, height, width))
    down, right = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    slopes = generator.uniform(0.5, 6.0, (2, _BATCH, channels, 1, 1))
    smooth = 0.5 + 0.5 * np.sin(slopes[0] * down + slopes[1] * right)
    scale = tuple(np.reshape(values, (-1, 1, 1)) for values in (spec.mean, spec.std))
    batches = [
        ((pixels * spec.pixel_range - scale[0]) / scale[1]).astype(np.float32)
        for pixels in (noise, smooth)
    ]
    if spec.layout == "nhwc":
        batches = [batch.transpose(0, 2, 3, 1) for batch in batches]
    return [np.ascontiguousarray(batch) for batch in batches]


def _by_onnx2pytorch(graph: ModelProto) -> nn.Module:
    from onnx2pytorch import ConvertModel

    return cast("nn.Module", ConvertModel(graph, experimental=True))


def _by_onnx2torch(graph: ModelProto) -> nn.Module:
    from onnx2torch import convert as convert_graph

    # It takes initialisers off the list of inputs, in place.
    copy = ModelProto()
    copy.CopyFrom(graph)
    return cast("nn.Module", convert_graph(copy))


_CONVERTERS: Final[dict[str, Callable[[ModelProto], nn.Module]]] = {
    "onnx2pytorch": _by_onnx2pytorch,
    "onnx2torch": _by_onnx2torch,
}


def _check(module: nn.Module, pictures: list[Floats], expected: list[Floats]) -> float:
    """The largest relative difference from `expected`; raises what is wrong."""
    before = state_digest(module)
    differences = []
    for batch, logits in zip(pictures, expected, strict=True):
        images = torch.from_numpy(batch)
        with torch.no_grad():
            first, second, alone = module(images), module(images), module(images[:1])
        if not isinstance(first, Tensor) or first.shape != logits.shape:
            raise _MismatchError("it does not answer with one tensor of logits")
        if not torch.equal(first, second):
            raise _MismatchError("it answers the same pictures differently when asked again")
        differences += [
            relative_difference(first.numpy(), logits),
            relative_difference(alone.numpy(), logits[:1]),
        ]
        _check_gradient(module, images)
    if state_digest(module) != before:
        raise _MismatchError("it changes its weights or buffers when it is asked")
    # Written so that NaN is refused too.
    if not max(differences) <= LARGEST_DIFFERENCE:
        raise _MismatchError(
            f"its logits differ from onnxruntime's by {max(differences):.1e} relative; "
            f"{LARGEST_DIFFERENCE:g} is allowed"
        )
    return max(differences)


def _check_gradient(module: nn.Module, images: Tensor) -> None:
    pixels = images.clone().requires_grad_()
    logits = module(pixels)
    direction = torch.linspace(-1, 1, logits.shape[1])
    (gradient,) = torch.autograd.grad((logits * direction).sum(), pixels)
    if not bool(torch.isfinite(gradient).all()):
        raise _MismatchError("its gradient is not finite")
    if not bool(gradient.any()):
        raise _MismatchError("its gradient is zero everywhere")
