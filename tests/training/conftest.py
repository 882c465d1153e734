"""What all tests of the workbench share."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Networks this small spend most of two threads' time waiting: 2.7 s against 0.06 s per attack.
    torch.set_num_threads(1)
