"""Weights: reading them without ever unpickling code, and loading them into a classifier."""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prn_guard.errors import TargetError

SAFETENSORS_SUFFIX: Final = ".safetensors"
TORCH_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".th"})
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."
_SHOWN = 4


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary from a file, on the CPU.

    A dictionary under `state_dict`, `model_state_dict` or `model` is unwrapped, and the `module.`
    that data-parallel training puts before every name is taken off.

    Raises:
        TargetError: missing, damaged, of another kind, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise TargetError(f"There is no weights file {path} (seen from {Path.cwd()}).")
    if path.suffix == SAFETENSORS_SUFFIX:
        content: Any = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        raise TargetError(
            f"The weights file {path} ends in {path.suffix or 'nothing'}; expected "
            f"{', '.join([SAFETENSORS_SUFFIX, *sorted(TORCH_SUFFIXES)])}. Save the classifier's "
            "state_dict() as one of them."
        )
    return _strip_prefix(_unwrap(content, path))


def load_weights(classifier: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `classifier`, every tensor of it and nothing less.

    Counters of batches, which old checkpoints lack and evaluation does not read, may be missing.

    Raises:
        TargetError: names or shapes differ; the message lists the first of each kind.
    """
    expected = classifier.state_dict()
    reshaped = [
        f"{name} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    missing: list[str] = [name for name in expected if name not in state]
    unexpected: list[str] = [name for name in state if name not in expected]
    if not reshaped:
        # A module may rename old keys while it loads, so its own answer counts.
        answer = classifier.load_state_dict(dict(state), strict=False)
        missing, unexpected = list(answer.missing_keys), list(answer.unexpected_keys)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    problems = [
        f"{kind} ({len(names)}): {', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise TargetError(
            f"The weights {source} do not belong to this classifier. {'; '.join(problems)}. Give "
            "the checkpoint of this very architecture, or a factory that builds the checkpoint's."
        )


def check_state(classifier: nn.Module) -> None:
    """Refuse a classifier whose state is not made of finite tensors.

    Buffers may hold minus infinity, as attention masks do.

    Raises:
        TargetError: the message names the first such entry.
    """
    parameters = {name for name, _ in classifier.named_parameters(remove_duplicate=False)}
    for name, value in classifier.state_dict().items():
        if not isinstance(value, Tensor):
            raise TargetError(
                f"The classifier's state {name!r} is {type(value).__name__}, not a tensor, and "
                "cannot be kept with the guard. Wrap the network so that its state is tensors only."
            )
        if not (value.is_floating_point() or value.is_complex()):
            continue
        finite = torch.isfinite(value)
        if name not in parameters:
            finite |= value == -math.inf
        if not bool(finite.all()):
            raise TargetError(
                f"The classifier's {name!r} holds {int((~finite).sum())} values that are NaN or "
                "infinite. The checkpoint is broken, as after a diverged training; give another."
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TargetError(
            f"{path} cannot be read as safetensors: {error}. It is damaged; save it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TargetError(
            f"{path} is damaged, or a pickle that holds more than tensors, which could run code "
            "and is not opened. Where you trust it, load it in your own script and save the "
            "classifier's weights: safetensors.torch.save_file(classifier.state_dict(), "
            '"weights.safetensors").'
        ) from error
    except Exception as error:  # on damaged bytes torch.load raises whatever it stumbles over
        raise TargetError(
            f"{path} cannot be read as a torch checkpoint: {error}. It is damaged, or holds a "
            "whole program (TorchScript); save the classifier's state_dict() again."
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(len(_WRAPPERS)):
        inner = [
            content[key]
            for key in _WRAPPERS
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
        ]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise TargetError(
            f"{path} holds {type(content).__name__}; expected a state dictionary of named tensors, "
            "alone or under 'state_dict' or 'model'. Save the classifier's state_dict()."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TargetError(
                f"{path} holds {name!r} of type {type(value).__name__} among the weights; expected "
                f"named tensors only, under 'state_dict' or 'model' if there is more in the file. "
                "Save the classifier's state_dict()."
            )
    return dict(content)


def _strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(_PARALLEL_PREFIX) for name in state):
        return state
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state.items()}
