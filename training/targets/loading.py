"""From what the user names to a wrapped, checked target, and from a guard folder back to it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import safetensors.torch
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.errors import ArtifactError, InvalidArgumentError, TargetError
from prn_guard.files import write_bytes
from prn_guard.nn.target import Target, count_classes, state_digest
from training.targets.checkpoints import (
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
    check_state,
    load_weights,
    read_checkpoint,
)
from training.targets.factories import call_factory, split_factory_spec
from training.targets.options import InputOptions
from training.targets.torchvision_models import build_model, find_model, read_weights

if TYPE_CHECKING:
    from training.targets.onnx_files import OnnxClassifier

FORMS: Final = (
    "path/to/file.py:factory, the name of a torchvision classifier such as resnet18, or "
    "path/to/model.onnx"
)
ONNX_SUFFIX: Final = ".onnx"


@dataclass(frozen=True)
class LoadedTarget:
    """A target that answers with logits, and what it was loaded from.

    Args:
        target: on the CPU, frozen.
        spec: as the user named it.
        weights: likewise; None for the factory's own.
        class_count: number of logits.
        onnx: the file it was converted from; None for one that is a torch module itself.
    """

    target: Target
    spec: str
    weights: str | None
    class_count: int
    onnx: "OnnxClassifier | None" = None

    def digest(self) -> str:
        """SHA-256 of the classifier: of its ONNX file, or of its weights and buffers."""
        if self.onnx is None:
            return state_digest(self.target)
        return hashlib.sha256(self.onnx.content).hexdigest()


def load_target(
    spec: str, *, weights: str | None = None, input_options: InputOptions | None = None
) -> LoadedTarget:
    """Load the classifier to defend.

    Args:
        spec: `path/to/file.py:factory`, where the factory returns a `Target` or a plain module;
            a torchvision classifier, `resnet18` or `torchvision:resnet18`; or an ONNX file.
        weights: a checkpoint's path; for torchvision also a name of its weights. None keeps the
            factory's own.
        input_options: the input of a plain module or an ONNX file, or departures from
            torchvision's.

    Raises:
        TargetError: it cannot be loaded, its weights are not finite, or it does not answer a
            picture with logits.
        InvalidArgumentError: the input options are contradictory.
    """
    options = input_options or InputOptions()
    _refuse_other_forms(spec)
    factory = split_factory_spec(spec)
    classifier = None
    if Path(spec).suffix.lower() == ONNX_SUFFIX:
        # onnx and its runtime take a second to import, which other targets need not wait for.
        from training.targets.onnx_loading import load_onnx_target

        path = Path(spec).expanduser()
        target, classifier = load_onnx_target(path, weights=weights, options=options)
    elif factory is not None:
        target = _load_from_factory(*factory, weights, options)
    else:
        target = _load_from_torchvision(find_model(spec), weights, options)
    check_state(target.classifier)
    return LoadedTarget(target, spec, weights, count_classes(target), classifier)


def save_target_state(target: Target, path: Path) -> None:
    """Write the classifier's weights and buffers to a safetensors file, whole or not at all.

    Raises:
        TargetError: its state is not made of finite tensors.
        StorageError: the file cannot be written.
    """
    check_state(target.classifier)
    # Cloned, because the format refuses tensors that share memory.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in target.classifier.state_dict().items()
    }
    write_bytes(path, safetensors.torch.save(state))


def restore_target(spec: str, input_spec: InputSpec, state: Path, digest: str) -> Target:
    """Rebuild the target that `save_target_state` wrote.

    Args:
        spec: as given to `load_target`.
        input_spec: the target's input then.
        state: file of `save_target_state`.
        digest: `state_digest` of the target then.

    Raises:
        ArtifactError: the file is missing, damaged or another target's.
        TargetError: the factory is gone, fails, or builds another classifier than then.
    """
    try:
        tensors = read_checkpoint(state)
    except TargetError as error:
        raise ArtifactError(
            f"The target's weights in the guard folder cannot be read. {error} Fit the guard anew."
        ) from error
    factory = split_factory_spec(spec)
    if factory is not None:
        classifier = _rebuild_by_factory(*factory, input_spec)
    else:
        classifier = build_model(find_model(spec), tensors, input_spec.height)
    load_weights(classifier, tensors, str(state))
    target = Target(classifier, input_spec)
    found = state_digest(target)
    if found != digest:
        raise ArtifactError(
            f"The target rebuilt from {state} has the digest {found[:12]}..., but the guard was "
            f"fitted to {digest[:12]}.... The file was changed or belongs to another guard; fit "
            "the guard anew."
        )
    return target


def _load_from_factory(file: Path, name: str, weights: str | None, options: InputOptions) -> Target:
    built = call_factory(file, name)
    if isinstance(built, Target) and not options.is_empty:
        raise InvalidArgumentError(
            f"The factory {name} of {file} returns a Target, which states its own input, and input "
            "options were given too. Leave the options away, or return the plain module."
        )
    # The scaling is settled before the weights are read, which may take long.
    target = built if isinstance(built, Target) else Target(built, options.complete())
    if weights is not None:
        path = Path(weights).expanduser()
        load_weights(target.classifier, read_checkpoint(path), weights)
    return target


def _load_from_torchvision(name: str, weights: str | None, options: InputOptions) -> Target:
    if weights is None:
        raise TargetError(
            f"torchvision's {name} needs weights: without them it is random, and no classifier. "
            "Give --weights with a checkpoint's path, or --weights DEFAULT to download "
            "torchvision's."
        )
    state, default = read_weights(name, weights)
    spec = options.complete(default)
    classifier = build_model(name, state, spec.height)
    load_weights(classifier, state, weights)
    return Target(classifier, spec)


def _rebuild_by_factory(file: Path, name: str, input_spec: InputSpec) -> nn.Module:
    built = call_factory(file, name)
    if not isinstance(built, Target):
        return built
    if built.spec != input_spec:
        raise TargetError(
            f"The factory {name} of {file} now states the input {built.spec}; the guard was fitted "
            f"to {input_spec}. Restore the factory as it was, or fit the guard anew."
        )
    return built.classifier


def _refuse_other_forms(spec: str) -> None:
    suffix = Path(spec).suffix.lower()
    if suffix == ".py":
        raise TargetError(f"The target {spec} names a file but no factory in it. Expected {FORMS}.")
    if suffix == SAFETENSORS_SUFFIX or suffix in TORCH_SUFFIXES:
        raise TargetError(
            f"The target {spec} is a file of weights, which says nothing of the architecture. Give "
            f"it by --weights {spec}, and as the target {FORMS}."
        )
