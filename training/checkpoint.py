"""Tensors on disk: safetensors with JSON metadata, written whole; exact state of a training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.files import write_whole

MODULE: Final = "module."
OPTIMIZER: Final = "optimizer."
KEPT: Final = "kept."


def check_suffix(path: Path) -> None:
    """Refuse a name by which the file would not be known again.

    Raises:
        InvalidArgumentError: it does not end in `.safetensors`.
    """
    if path.suffix != ".safetensors":
        raise InvalidArgumentError(
            f"--out is {path}; expected a name that ends in .safetensors, the form that is written."
        )


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors, and any JSON values beside them, to a safetensors file, whole or not at all.

    Raises:
        StorageError: the file could not be written.
    """
    # Cloned, because the format refuses tensors that share memory, as tied weights do.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    write_whole(path, lambda partial: _save(plain, partial, texts))


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `save_tensors` wrote.

    Raises:
        ArtifactError: the file is missing, damaged, or holds values that are not finite.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing. Run the command that writes it first.")
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            metadata = {name: json.loads(text) for name, text in (stored.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no whole safetensors file of this project: {error}. Delete it and run the "
            "command that writes it again."
        ) from error
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ArtifactError(
                f"{path}: tensor {name} holds values that are not finite. Delete the file and "
                "run the command that writes it again."
            )
    return tensors, metadata


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where an interrupted training stood."""

    done: int = 0
    """Steps."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Tensors beyond weights and moments, on the CPU."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values."""


def save_training(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    done: int,
    kept: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the exact state of a training after `done` of its steps, whole or not at all.

    Args:
        path: safetensors file.
        module: whose weights and buffers to write.
        optimizer: whose moments to write.
        done: steps.
        kept: other tensors that the next step depends on.
        facts: JSON values that belong to them.

    Raises:
        StorageError: the file could not be written.
    """
    weights = {f"{MODULE}{name}": value for name, value in module.state_dict().items()}
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    moments = {
        f"{OPTIMIZER}{index}.{name}": value
        for index, named in state.items()
        for name, value in named.items()
    }
    others = {f"{KEPT}{name}": value for name, value in (kept or {}).items()}
    save_tensors(path, {**weights, **moments, **others}, {"done": done, "facts": dict(facts or {})})


def resume_training(
    path: Path | None, module: nn.Module, optimizer: torch.optim.Optimizer
) -> Resumed:
    """Go back to the state that `save_training` wrote; without a file, to none.

    Raises:
        ArtifactError: the file is damaged or belongs to another architecture.
    """
    if path is None or not path.exists():
        return Resumed()
    tensors, metadata = load_tensors(path)
    state: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    try:
        for key, value in tensors.items():
            if key.startswith(MODULE):
                weights[key.removeprefix(MODULE)] = value
            elif key.startswith(KEPT):
                kept[key.removeprefix(KEPT)] = value
            else:
                index, name = key.removeprefix(OPTIMIZER).split(".")
                state.setdefault(int(index), {})[name] = value
        module.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return Resumed(done=int(metadata["done"]), kept=kept, facts=dict(metadata["facts"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path} belongs to another training: {error}. Delete it to begin anew."
        ) from error
