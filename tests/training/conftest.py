"""What all tests of the workbench share."""

from pathlib import Path

import pytest
import torch

from prn_guard.nn.guarded import GuardedClassifier
from tests.training.small import NAMES, SHAPE
from tests.training.tiny_guard import Workplace
from training.datasets import Pictures, load_pictures
from training.guard.folder import load_guard


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Networks this small spend most of two threads' time waiting: 2.7 s against 0.06 s per attack.
    torch.set_num_threads(1)


@pytest.fixture
def guarded(guard_folder: Path) -> GuardedClassifier:
    """The tiny guard as a module of its own."""
    return load_guard(guard_folder)[0]


@pytest.fixture(scope="session")
def test_set(work: Workplace) -> Pictures:
    """Its test pictures."""
    return load_pictures(str(work.images), split="test", size=SHAPE, class_count=len(NAMES))
