"""Classifiers that exist only as an ONNX file: reading them, and refusing what is none.

The bytes of the file are kept as they are. Work goes on in a copy whose declared shapes were
completed (a free batch axis, a fixed size); its nodes and initialisers are the file's own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, final

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from prn_guard.errors import ArtifactError, TargetError
from prn_guard.plain_files import read_bounded
from training.targets import onnx_graphs as graphs
from training.targets.onnx_probe import ends_in_softmax, first_line, probe

OPSETS: Final = range(13, 26)
LARGEST_FILE: Final = 2**31 - 1
"""Bytes; protobuf reads no more."""
_LEAST_SIDE: Final = 8

Layout = Literal["nchw", "nhwc"]


@final
@dataclass(frozen=True, kw_only=True)
class OnnxClassifier:
    """An ONNX file that was read and found to be a classifier.

    Args:
        model: the graph with a free batch axis and a fixed picture size; nodes and initialisers
            are those of the file.
        content: the file as it was.
        opset: version of the standard operators, 13 to 25.
        input_name: of the pictures, float32.
        output_name: of the answer, float32 `(batch, class_count)`.
        layout: order of the input's axes.
        channels: 1 or 3.
        height: in pixels.
        width: in pixels.
        class_count: at least 2.
        ends_in_softmax: whether the answer is probabilities. The gradient of a saturated softmax
            is nothing but rounding, so the torch side takes the logits before it; labels are the
            same. A softmax that is spelt out (Exp, ReduceSum, Div) is not recognised.
    """

    model: ModelProto
    content: bytes
    opset: int
    input_name: str
    output_name: str
    layout: Layout
    channels: int
    height: int
    width: int
    class_count: int
    ends_in_softmax: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one picture, whatever the layout."""
        return self.channels, self.height, self.width

    def logits_graph(self) -> ModelProto:
        """A copy that answers with the logits alone, taken before a softmax at the end."""
        answer = graphs.only_output(self.model, self.output_name)
        bare = graphs.without_softmax(answer) if self.ends_in_softmax else None
        return answer if bare is None else bare


def read_onnx(path: Path, *, shape: tuple[int, int, int] | None = None) -> OnnxClassifier:
    """Read a classifier from an ONNX file.

    Args:
        path: the file, weights inside.
        shape: `(C, H, W)`, where the file leaves the picture's size open.

    Raises:
        TargetError: there is no such file, or it is no classifier that can be guarded; the
            message says why, and what to do.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            _refuse_size(str(path))
        content = read_bounded(path, LARGEST_FILE)
    except (OSError, ArtifactError) as error:
        raise TargetError(
            f"The target {path} cannot be read: {str(error).rstrip('.')}. Give the path of an ONNX "
            "file."
        ) from error
    return parse_onnx(content, name=str(path), shape=shape)


def parse_onnx(
    content: bytes, *, name: str, shape: tuple[int, int, int] | None = None
) -> OnnxClassifier:
    """Read a classifier from the bytes of an ONNX file; `name` stands for it in messages.

    Args:
        content: the file.
        name: what to call it.
        shape: as for `read_onnx`.

    Raises:
        TargetError: as for `read_onnx`.
    """
    if len(content) > LARGEST_FILE:
        _refuse_size(name)
    model = _parse(content, name)
    # Before the checker, which looks for the files that tensors point to.
    _refuse_external(model, name)
    opset = _opset_of(model, name)
    _check(model, name)
    _refuse_form(model, name)
    pictures = _only_input(model, name)
    layout, size = _picture_form(pictures, name, shape)
    was_fixed = graphs.dims_of(pictures)[0] is not None
    axes = size if layout == "nchw" else (size[1], size[2], size[0])
    work = graphs.with_size(graphs.with_free_batch(model), axes)
    output_name, class_count = probe(work, (1, *axes), name, was_fixed=was_fixed)
    return OnnxClassifier(
        model=work,
        content=content,
        opset=opset,
        input_name=pictures.name,
        output_name=output_name,
        layout=layout,
        channels=size[0],
        height=size[1],
        width=size[2],
        class_count=class_count,
        ends_in_softmax=ends_in_softmax(work, output_name, axes),
    )


def _parse(content: bytes, name: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise TargetError(
            f"{name} is no ONNX model, or is damaged or cut short: {error}. Fetch or export it "
            "anew."
        ) from error
    return model


def _check(model: ModelProto, name: str) -> None:
    foreign = graphs.foreign_operators(model)
    if foreign or len(model.functions):
        found = ", ".join(foreign[:4]) or "functions of its own"
        raise TargetError(
            f"{name} uses operators that are not standard ONNX ({found}). Export it without custom "
            "operators and functions, and before any runtime-specific optimisation."
        )
    repeating = graphs.repeating_operators(model)
    if repeating:
        raise TargetError(
            f"{name} uses {', '.join(repeating)}, which may run for ever, so that the runtime "
            "loads no graph with it. Export the classifier with its loops unrolled."
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, EncodeError) as error:
        raise TargetError(
            f"{name} is no valid ONNX model: {first_line(error)}. Fetch or export it anew."
        ) from error
    broken = graphs.broken_constants(model)
    if broken:
        raise TargetError(
            f"{name} has weights that are NaN or infinite, first in {broken[0]!r}. The checkpoint "
            "is broken, as after a diverged training; give another."
        )


def _refuse_form(model: ModelProto, name: str) -> None:
    """Refuse what is valid ONNX, but could not be joined with the guard in the end."""
    sparse = [tensor.values.name for tensor in model.graph.sparse_initializer]
    if sparse:
        raise TargetError(
            f"{name} has {len(sparse)} sparse initialiser(s), first {sparse[0]!r}; expected dense "
            "ones. Export the classifier with dense weights."
        )
    given = {value.name for value in model.graph.input}
    handed_on = [value.name for value in model.graph.output if value.name in given]
    if handed_on:
        raise TargetError(
            f"{name} gives its own input {handed_on[0]!r} as an output; expected computed outputs "
            "only. Remove it from the outputs, or pass it through an Identity node."
        )


def _refuse_external(model: ModelProto, name: str) -> None:
    outside = graphs.external_tensors(model)
    if outside:
        raise TargetError(
            f"{name} keeps the values of {len(outside)} tensor(s), first {outside[0]!r}, in "
            "another file, which is not followed. Save it with all weights inside: "
            "onnx.save(onnx.load(path), path)."
        )


def _opset_of(model: ModelProto, name: str) -> int:
    standard = [e.version for e in model.opset_import if e.domain in graphs.STANDARD_DOMAINS]
    if len(standard) > 1:
        raise TargetError(
            f"{name} imports the standard operators {len(standard)} times, as '' and 'ai.onnx' "
            f"(opsets {standard}); expected once. Keep one entry of opset_import, or export anew."
        )
    opset = graphs.opset_of(model)
    if opset is None or opset not in OPSETS:
        raise TargetError(
            f"{name} has opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}. Export it anew at "
            "such an opset, or convert it by onnx.version_converter."
        )
    return opset


def _only_input(model: ModelProto, name: str) -> onnx.ValueInfoProto:
    inputs = graphs.declared_inputs(model)
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise TargetError(
            f"{name} has {len(inputs)} inputs ({listed}); expected one, the pictures. Export the "
            "classifier alone."
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind) if kind else "no tensor"
        raise TargetError(
            f"The input {inputs[0].name!r} of {name} is {found}; expected FLOAT (float32). Export "
            "the classifier in float32, without the preprocessing of bytes."
        )
    return inputs[0]


def _picture_form(
    pictures: onnx.ValueInfoProto, name: str, shape: tuple[int, int, int] | None
) -> tuple[Layout, tuple[int, int, int]]:
    """Layout and `(C, H, W)`: the file's, completed by what the user stated."""
    dims = graphs.dims_of(pictures)
    written = f"[{', '.join('?' if length is None else str(length) for length in dims)}]"
    here = f"The input {pictures.name!r} of {name} is {written}"
    if len(dims) != 4:
        raise TargetError(f"{here}; expected pictures of 4 axes, the batch first.")
    _, first, second, third = dims
    forms: tuple[tuple[Layout, tuple[int | None, ...]], ...] = (
        ("nchw", (first, second, third)),
        ("nhwc", (third, first, second)),
    )
    for layout, declared in forms:
        if declared[0] not in {1, 3, None} or (declared[0] is None and shape is None):
            continue
        channels, height, width = (
            declared
            if shape is None
            else tuple(length or stated for length, stated in zip(declared, shape, strict=True))
        )
        if shape is not None and (channels, height, width) != shape:
            continue
        if channels is None or height is None or width is None:
            raise TargetError(
                f"{here}: its size is open. Fix it by --input-shape CHANNELSxHEIGHTxWIDTH "
                "(3x224x224, say): a guard is made for one size."
            )
        if channels not in {1, 3} or min(height, width) < _LEAST_SIDE:
            break
        return layout, (channels, height, width)
    asked = "" if shape is None else f", and --input-shape asks for {'x'.join(map(str, shape))}"
    raise TargetError(
        f"{here}{asked}; expected pictures of 1 or 3 channels, at axis 1 or at axis 3, and at "
        f"least {_LEAST_SIDE} pixels high and wide. Give --input-shape only where the file leaves "
        "the size open."
    )


def _refuse_size(name: str) -> NoReturn:
    raise TargetError(
        f"{name} is larger than 2 GiB, which is more than an ONNX file with its weights inside can "
        "hold. Give a smaller classifier, or the torch module it was exported from."
    )
