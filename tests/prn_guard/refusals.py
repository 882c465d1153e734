"""How a harmful artifact is refused: soon, and with a message that says what to do."""

import time
from pathlib import Path

import pytest

from prn_guard.errors import ArtifactError
from prn_guard.session import open_session


def assert_refused(folder: Path, name: str, said: str, public_key: Path | None = None) -> None:
    """Opening `folder` fails with a message that holds `name`, `said` and a way out."""
    begin = time.monotonic()
    with pytest.raises(ArtifactError) as caught:
        open_session(folder, public_key=public_key)
    message = str(caught.value)
    assert name in message
    assert said in message
    assert any(hint in message for hint in ("anew", "Restore", "Put the file", "Is it", "Is this"))
    assert time.monotonic() - begin < 5
