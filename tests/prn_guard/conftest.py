"""The tiny guard as a folder on disk and as NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prn_guard.contract import InputSpec
from tests.prn_guard.tiny import (
    BIASES,
    CHANNELS,
    SIZE,
    THRESHOLD,
    VALUES,
    WEIGHTS,
    tiny_manifest,
    tiny_model,
    tiny_spec,
    write_folder,
)

Change = Callable[[Any], None]
WriteGuard = Callable[..., Path]


@pytest.fixture
def spec() -> InputSpec:
    return tiny_spec()


@pytest.fixture
def write_guard(tmp_path: Path, spec: InputSpec) -> WriteGuard:
    """Write a guard folder; `model`, `manifest` and `graph` may alter it before it is hashed."""

    def write(
        *,
        model: Change | None = None,
        manifest: Change | None = None,
        graph: Callable[[bytes], bytes] | None = None,
    ) -> Path:
        folder = tmp_path / "guard"
        proto = tiny_model()
        if model is not None:
            model(proto)
        content = proto.SerializeToString()
        if graph is not None:
            content = graph(content)
        record = tiny_manifest(spec, content)
        if manifest is not None:
            manifest(record)
        write_folder(folder, content, record)
        return folder

    return write


@pytest.fixture
def folder(write_guard: WriteGuard) -> Path:
    return write_guard()


@pytest.fixture
def pictures() -> np.ndarray:
    """`(37, 8, 8, 3)` uint8: dark and bright ones in turn, the last exactly on the threshold."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (37, SIZE, SIZE, CHANNELS))
    images[::2] = images[::2] // 2
    images[1::2] = 255 - images[1::2] // 3
    images[-1, :4], images[-1, 4:] = 0, 255
    return images.astype(np.uint8)


@pytest.fixture
def expected() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The same guard in float64 NumPy."""

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = images.astype(np.float64)
        score = pixels.sum(axis=(1, 2, 3)) / (VALUES * 255)
        flagged = score > THRESHOLD
        chosen = np.where(flagged[:, None, None, None], pixels / 2, pixels)
        logits = chosen.reshape(len(images), -1) @ WEIGHTS.astype(np.float64) + BIASES
        return {
            "label": logits.argmax(axis=1),
            "logits": logits.astype(np.float32),
            "score": score.astype(np.float32),
            "flagged": flagged,
        }

    return compute
