"""One server for all tests that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prn_guard.serve.running import Running, serving, tiny_folder


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny guard; not to be written to."""
    return tiny_folder(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(served_folder: Path) -> Iterator[Running]:
    """Serves the tiny guard over REST, without a token."""
    with serving(served_folder) as running:
        yield running
