"""Progress lines in a log, and the bar on a terminal."""

import io
import sys

import pytest

from training import progress
from training.progress import tracked


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracked("Crafting") as track:
        for done in range(1, 61):
            clock.now += 1
            track(done, 60)
    lines = capsys.readouterr().err.splitlines()
    # 15 seconds for 14 steps after the first one told, hence 15/14 s each.
    assert lines[0] == "Crafting: 15/60, about 48 s left"
    assert [line.split()[1] for line in lines] == ["15/60,", "30/60,", "45/60,", "60/60,"]
    assert lines[-1] == "Crafting: 60/60, done"


def test_the_status_is_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with tracked("Training") as track:
        clock.now += 20
        track(1, 3, "loss 0.5")
        clock.now += 10
        track(2, 3, "loss 0.4")
        track(3, 3, "loss 0.3")
    lines = capsys.readouterr().err.splitlines()
    # Nothing can be said of the pace before a step was seen.
    assert lines == [
        "Training: 1/3, no telling how long, loss 0.5",
        "Training: 3/3, done, loss 0.3",
    ]


def test_resumed_work_is_timed_from_where_it_resumed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracked("Training") as track:
        track(90, 100)
        clock.now += 20
        track(94, 100)  # four steps in 20 seconds: six more take 30
    assert capsys.readouterr().err == "Training: 94/100, about 30 s left\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with tracked("Crafting") as track:
        track(3, 4, "9 tried")
    assert "Crafting" in terminal.getvalue()
    assert "3/4" in terminal.getvalue()
    assert "9 tried" in terminal.getvalue()
