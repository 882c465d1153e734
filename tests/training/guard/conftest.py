"""What tests of fits share."""

import pytest

from tests.training.guard.short_fit import make_short


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    make_short(monkeypatch)
