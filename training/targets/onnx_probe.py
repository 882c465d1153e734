"""What an ONNX graph answers, found by running it: which output holds the logits, of what kind."""

from typing import Any

import numpy as np
from onnx import ModelProto

from prn_guard.errors import TargetError
from training.targets import onnx_graphs as graphs
from training.targets.onnx_runs import (
    LARGEST_DIFFERENCE,
    Floats,
    Reference,
    relative_difference,
)


def probe(
    work: ModelProto, shape: tuple[int, ...], name: str, *, was_fixed: bool
) -> tuple[str, int]:
    """The output that holds the logits, and how many there are, found by running pictures.

    Args:
        work: a graph of one input.
        shape: of one picture with its batch axis, in the graph's layout.
        name: what to call the file.
        was_fixed: whether the file declared a fixed batch.

    Raises:
        TargetError: it does not run, answers with no logits, or answers a picture in a batch
            otherwise than alone.
    """
    try:
        reference = Reference(work)
        single = reference(_noise(shape, seed=0))
    except Exception as error:  # onnxruntime has a kind of its own for every cause
        raise TargetError(
            f"onnxruntime cannot run {name}: {first_line(error)}. Check that it runs there on one "
            "float32 picture, and export it anew."
        ) from error
    answers = dict(zip(reference.names, single, strict=True))
    output_name = next((key for key, value in answers.items() if _are_logits(value)), None)
    if output_name is None:
        forms = ", ".join(_form(key, value) for key, value in answers.items())
        raise TargetError(
            f"{name} answers one picture with {forms}; expected an output of float32 (1, classes), "
            "at least 2 classes. Export the classifier with its logits as output."
        )
    value = answers[output_name]
    if not bool(np.isfinite(value).all()):
        raise TargetError(
            f"{name} answers noise with logits that are not finite. Its weights are broken."
        )
    _check_batches(reference, output_name, shape, name, was_fixed=was_fixed)
    return output_name, int(value.shape[1])


def _check_batches(
    reference: Reference, output_name: str, shape: tuple[int, ...], name: str, *, was_fixed: bool
) -> None:
    advice = (
        f"{name} is made for a batch of fixed size, and other sizes give other answers"
        if was_fixed
        else f"The answers of {name} depend on what else is in the batch"
    )
    # Pixels on both of the usual scales: on one of them, a classifier may answer all noise alike.
    for scale in (1.0, 255.0):
        images = [scale * _noise(shape, seed=seed) for seed in (1, 2)]
        try:
            alone = np.concatenate([reference(image, [output_name])[0] for image in images])
            together = reference(np.concatenate(images), [output_name])[0]
        except Exception as error:
            raise TargetError(
                f"{advice} ({first_line(error)}). Export it anew with a free batch axis."
            ) from error
        if (
            together.shape != alone.shape
            or not relative_difference(together, alone) <= LARGEST_DIFFERENCE
        ):
            raise TargetError(f"{advice}. Export it anew with a free batch axis.")


def ends_in_softmax(work: ModelProto, output_name: str, axes: tuple[int, ...]) -> bool:
    """Whether the output is probabilities that a Softmax at the end makes of logits."""
    answer = graphs.only_output(work, output_name)
    bare = graphs.without_softmax(answer)
    if bare is None:
        return False
    images = _noise((2, *axes), seed=3)
    try:
        logits = np.asarray(Reference(bare)(images)[0], dtype=np.float64)
    except Exception:
        return False
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    # A softmax over another axis than the classes is part of the network.
    return relative_difference(Reference(answer)(images)[0], probabilities) <= LARGEST_DIFFERENCE


def _noise(shape: tuple[int, ...], *, seed: int) -> Floats:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _are_logits(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float32
        and value.ndim == 2
        and len(value) == 1
        and value.shape[1] >= 2
    )


def _form(name: str, value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"{name} {type(value).__name__}"
    return f"{name} {value.dtype} {tuple(value.shape)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of our own."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
