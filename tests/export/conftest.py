"""The tiny guard, exported once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from export.bundle import export_guard
from export.guarded_graph import bare_graph
from prn_guard.contract import Manifest
from prn_guard.nn.guarded import GuardedClassifier
from tests.training.small import NAMES, SHAPE
from tests.training.tiny_guard import Workplace
from training.datasets import Pictures, load_pictures
from training.guard.folder import load_guard


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Networks this small spend most of two threads' time waiting: 2.7 s against 0.06 s per attack.
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Artifact:
    """What was exported, and the bare target beside it."""

    folder: Path
    manifest: Manifest
    graph: bytes
    bare: bytes


@pytest.fixture(scope="session")
def artifact(guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The exported guard, not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "guarded"
    manifest = export_guard(guard_folder, folder)
    guarded, record = load_guard(guard_folder)
    bare = bare_graph(guarded.target, record.input)
    return Artifact(folder, manifest, (folder / "guarded.onnx").read_bytes(), bare)


@pytest.fixture
def guarded(guard_folder: Path) -> GuardedClassifier:
    return load_guard(guard_folder)[0]


@pytest.fixture(scope="session")
def test_set(work: Workplace) -> Pictures:
    return load_pictures(str(work.images), split="test", size=SHAPE, class_count=len(NAMES))
