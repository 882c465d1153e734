"""Tensors on disk: safetensors with JSON metadata, written whole; exact state of an optimiser."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prn_guard.errors import ArtifactError
from prn_guard.files import write_whole


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors, and any JSON values beside them, to a safetensors file, whole or not at all.

    Raises:
        StorageError: the file could not be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
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


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of `optimizer` as tensors named `optimizer.<parameter>.<moment>`."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, moments in state.items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give `optimizer` the state that `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, *place = key.split(".")
        if owner == "optimizer":
            state.setdefault(int(place[0]), {})[place[1]] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
