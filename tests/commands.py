"""Running a command line of the workbench in this process, as `python -m` would."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


def runner(
    main: Callable[[], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """A function that runs `main` with the arguments that it is given."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        text = capsys.readouterr()
        return Ended(int(stopped.value.code or 0), text.out, text.err)

    return run


def assert_refused(ended: Ended, *parts: str) -> None:
    """Exit code 2, one line of error that holds all `parts`, and no traceback."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    (message,) = (line for line in ended.err.splitlines() if line.startswith("Error: "))
    missing = [part for part in parts if part not in message]
    assert not missing, (missing, message)
