"""What all tests of hardening share."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.hardening.requests import UAT, hardening, held_for_testing
from tests.training.tiny_guard import Workplace
from training.hardening import command, validation
from training.hardening.command import harden


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    # Hundreds of checkpoints: what is lost when the power goes is no matter of these tests, and
    # waiting for a busy disk took nine tenths of their time.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def short_attacks() -> Iterator[None]:
    """Attacks of five steps, after every epoch and at the end."""
    quick = {"steps": 5, "batch_size": 32, "on_step": None}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(command, "FINAL_STEPS", 5)
        monkeypatch.setattr(validation.measure, "__kwdefaults__", quick)
        yield


@pytest.fixture(scope="module")
def hardened(
    short_attacks: None, work: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a hardening with test pictures; not to be written to."""
    out = tmp_path_factory.mktemp("hardened") / "out"
    harden(dataclasses.replace(hardening(work, **UAT), test=held_for_testing(work)), out)
    return out
