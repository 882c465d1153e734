"""From an ONNX file that the user names to a wrapped target, and from a guard folder back to it."""

import dataclasses
import hashlib
from pathlib import Path

from prn_guard.contract import InputSpec
from prn_guard.errors import ArtifactError, TargetError
from prn_guard.nn.target import Target
from training.targets.onnx_files import OnnxClassifier, read_onnx
from training.targets.onnx_torch import to_torch
from training.targets.options import InputOptions


def load_onnx_target(
    path: Path, *, weights: str | None, options: InputOptions
) -> tuple[Target, OnnxClassifier]:
    """Read an ONNX file and wrap its conversion.

    Args:
        path: the file.
        weights: must be None: the file holds its own.
        options: the pixel range at least, which the file does not say; a shape only where the file
            leaves the picture's size open.

    Raises:
        TargetError: it is no classifier that can be guarded, or an option is missing or surplus.
        InvalidArgumentError: the input options are contradictory.
    """
    if weights is not None:
        raise TargetError(
            f"The target {path} is an ONNX file, which holds its weights, and --weights {weights} "
            "was given too. Leave --weights away."
        )
    # Read first: a file that cannot be guarded at all needs no further questions.
    classifier = read_onnx(path, shape=options.shape)
    spec = _input_spec(classifier, path, options)
    return Target(to_torch(classifier, spec), spec), classifier


def restore_onnx_target(path: Path, input_spec: InputSpec, digest: str) -> Target:
    """Rebuild the target from the ONNX file that a guard folder keeps.

    Args:
        path: the file.
        input_spec: the target's input when the guard was fitted.
        digest: SHA-256 of the file then.

    Raises:
        ArtifactError: the file is missing, damaged or another target's.
        TargetError: the converters at hand do not convert it any more.
    """
    classifier = stored_classifier(path, input_spec, digest)
    return Target(to_torch(classifier, input_spec), input_spec)


def stored_classifier(path: Path, input_spec: InputSpec, digest: str) -> OnnxClassifier:
    """Read the ONNX file that a guard folder keeps.

    Args:
        path: the file.
        input_spec: the target's input when the guard was fitted.
        digest: SHA-256 of the file then.

    Raises:
        ArtifactError: the file is missing, damaged or another target's.
    """
    try:
        classifier = read_onnx(path, shape=input_spec.shape)
    except TargetError as error:
        raise ArtifactError(
            f"The target's ONNX file in the guard folder cannot be used. {error} Restore the file, "
            "or fit the guard anew."
        ) from error
    found = hashlib.sha256(classifier.content).hexdigest()
    if found != digest or classifier.layout != input_spec.layout:
        raise ArtifactError(
            f"{path} has the digest {found[:12]}..., but the guard was fitted to {digest[:12]}.... "
            "The file was changed or belongs to another guard; fit the guard anew."
        )
    return classifier


def _input_spec(classifier: OnnxClassifier, path: Path, options: InputOptions) -> InputSpec:
    if options.pixel_range is None:
        raise TargetError(
            f"{path} does not say on which scale it takes its pixels. Give --pixel-range 1 where "
            "black is 0 and white is 1, or --pixel-range 255 where white is 255, before the "
            "normalisation of --input-mean and --input-std, if it has one outside the graph. A "
            "wrong range ruins everything after it: attack, guard and every figure."
        )
    spec = dataclasses.replace(options, shape=classifier.shape).complete()
    return spec.model_copy(update={"layout": classifier.layout})
