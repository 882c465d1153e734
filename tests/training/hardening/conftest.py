"""What all tests of hardening share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    # Hundreds of checkpoints: what is lost when the power goes is no matter of these tests, and
    # waiting for a busy disk took nine tenths of their time.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield
