"""Perturbations that cost much to craft, kept as soon as they are."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from training.checkpoint import load_tensors, save_tensors

Crafted = tuple[Tensor, dict[str, Any]]
"""A perturbation `(C, H, W)`, and notes on how it came about, as plain JSON values."""


@final
class PerturbationStore:
    """Crafts each perturbation once; those of an interrupted run of the same request are kept.

    Args:
        path: safetensors file of the perturbations by name, and the notes beside them.
        request: all that they depend on; a file of another request is replaced.

    Raises:
        ArtifactError: the file is damaged.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self._path = path
        self._request = dict(request)
        self._tensors: dict[str, Tensor] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        if path.exists():
            tensors, metadata = load_tensors(path)
            if metadata.get("request") == self._request:
                self._tensors, self._notes = tensors, metadata["notes"]

    def get(self, name: str, craft: Callable[[], Crafted]) -> Crafted:
        """What `craft` made under this `name`, on the CPU; it is called if nothing has it yet."""
        if name not in self._tensors:
            perturbation, notes = craft()
            self._tensors[name], self._notes[name] = perturbation.detach().cpu(), notes
            metadata = {"request": self._request, "notes": self._notes}
            save_tensors(self._path, self._tensors, metadata)
        return self._tensors[name], self._notes[name]
