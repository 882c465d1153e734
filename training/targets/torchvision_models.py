"""Targets from torchvision's list of classifiers, built to fit the weights that are at hand."""

import difflib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import torchvision
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError
from training.targets.checkpoints import read_checkpoint

PREFIX: Final = "torchvision:"
# These two renormalise their input when torchvision loads weights into them; their weights mean
# nothing without it. They also grow auxiliary heads, which published weights may or may not hold.
_RENORMALISING: Final = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}
_DOWNLOAD_SILENCE_SECONDS = 10.0


def find_model(spec: str) -> str:
    """The torchvision classifier that `spec`, `name` or `torchvision:name`, means.

    Raises:
        TargetError: there is none of that name.
    """
    name = spec.removeprefix(PREFIX)
    known = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise TargetError(
        f"The target {spec!r} is neither path/to/file.py:factory nor a classifier of torchvision."
        f"{hint}"
    )


def read_weights(name: str, weights: str) -> tuple[dict[str, Tensor], InputSpec]:
    """Read the weights of classifier `name`, and the input that torchvision states for them.

    Args:
        name: as `find_model` answers.
        weights: a checkpoint's path, or a name of torchvision's weights (`DEFAULT`,
            `IMAGENET1K_V1`, `ResNet18_Weights.IMAGENET1K_V1`), which are downloaded.

    Returns:
        the state dictionary, and the input of those weights (for a file: of the default ones).

    Raises:
        TargetError: no such file or name, a damaged file, or a failed download.
    """
    choices = torchvision.models.get_model_weights(name)
    if Path(weights).expanduser().is_file():
        return read_checkpoint(Path(weights).expanduser()), _input_of(choices.DEFAULT)
    key = weights.removeprefix(f"{choices.__name__}.")
    if key not in choices.__members__:
        raise TargetError(
            f"The weights {weights!r} are neither a file nor a torchvision name for {name}. Give a "
            f"checkpoint, or one of DEFAULT, {', '.join(entry.name for entry in choices)}."
        )
    return _download(name, choices[key]), _input_of(choices[key])


def build_model(name: str, state: Mapping[str, Tensor], height: int) -> nn.Module:
    """Build classifier `name` with untrained weights, of the form that `state` fits into.

    The number of classes follows the checkpoint when only the last layers differ from ImageNet's
    1,000 classes; vision transformers are built for pictures of that height.

    Raises:
        TargetError: torchvision refuses to build it.
    """
    arguments: dict[str, Any] = {}
    if name in _RENORMALISING:
        has_heads = any(key.startswith(_RENORMALISING[name]) for key in state)
        arguments |= {"init_weights": False, "transform_input": True, "aux_logits": has_heads}
    if name.startswith("vit_"):
        arguments["image_size"] = height
    try:
        model = torchvision.models.get_model(name, weights=None, **arguments)
        classes = _count_classes(model, state)
        if classes is not None:
            model = torchvision.models.get_model(
                name, weights=None, num_classes=classes, **arguments
            )
    except (ValueError, RuntimeError, AssertionError) as error:
        raise TargetError(
            f"torchvision cannot build {name} for pictures {height} high: "
            f"{type(error).__name__}: {error}. Give the --input-shape that the weights were "
            "trained for."
        ) from error
    return cast("nn.Module", model)


def _count_classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    counts = {
        len(state[name])
        for name, value in model.state_dict().items()
        if name in state
        and value.ndim
        and state[name].ndim == value.ndim
        and len(value) == 1000
        and state[name].shape[1:] == value.shape[1:]
        and len(state[name]) != 1000
    }
    return counts.pop() if len(counts) == 1 else None


def _input_of(entry: Any) -> InputSpec:
    preset = entry.transforms()
    side = int(preset.crop_size[0])
    return InputSpec(
        channels=3, height=side, width=side, mean=tuple(preset.mean), std=tuple(preset.std)
    )


def _download(name: str, entry: Any) -> dict[str, Tensor]:
    # Built by torchvision's own hand, because some of its files need keys renamed on the way in.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SILENCE_SECONDS)
    try:
        return dict(torchvision.models.get_model(name, weights=entry).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise TargetError(
            f"The weights {entry} could not be downloaded from {entry.url}: {error}. Fetch that "
            "file elsewhere and give its path."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
