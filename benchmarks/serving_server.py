"""`prn-guard serve` around an engine that is watched, and can be made to fail.

    python -m benchmarks.serving_server FOLDER --port 0 --batches FILE

Everything but the engine is what `prn-guard serve` runs. A picture whose first value is `--poison`
makes its batch fail. At SIGUSR1 the wall clock jumps a day ahead, at SIGUSR2 two days back.
"""

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer

from prn_guard.serve import logs
from prn_guard.serve.build import Parts, assemble
from prn_guard.serve.engine import Engine, Outcome, Values
from prn_guard.serve.run import run
from prn_guard.serve.settings import ServeSettings, read_settings

DAY: Final = 86_400.0


class WatchedEngine:
    """An engine that notes when each batch began, its pictures, and the seconds that it took."""

    def __init__(
        self, engine: Engine, notes: TextIO | None, *, poison: int | None, seconds: float
    ) -> None:
        self._engine, self._notes = engine, notes
        self._poison, self._seconds = poison, seconds
        self.manifest = engine.manifest
        self.sessions: int = engine.sessions
        self.providers = engine.providers
        self.extras: Mapping[str, Any] = engine.extras

    def warm_up(self, session: int = 0) -> None:
        """As the engine's."""
        self._engine.warm_up(session)

    def run(self, values: Values, *, session: int = 0, extras: Sequence[str] = ()) -> Outcome:
        """As the engine's, longer or failing where that was asked for."""
        if self._poison is not None and (values[:, 0, 0, 0] == self._poison).any():
            raise RuntimeError("the engine was made to fail")
        if self._seconds:
            time.sleep(self._seconds)
        began = time.monotonic()
        outcome = self._engine.run(values, session=session, extras=extras)
        if self._notes is not None:
            self._notes.write(f"{began} {len(values)} {time.monotonic() - began}\n")
        return outcome


def main(
    folder: Path,
    port: Annotated[int, typer.Option()] = 0,
    config: Annotated[Path | None, typer.Option(help="Further settings, as TOML.")] = None,
    batches: Annotated[Path | None, typer.Option(help="Where to note every batch.")] = None,
    poison: Annotated[int | None, typer.Option(help="First value of a fatal picture.")] = None,
    seconds: Annotated[float, typer.Option(help="That every run takes longer.")] = 0.0,
) -> None:
    """Serve until SIGTERM."""
    settings = read_settings({"folder": folder, "port": port, "grpc": False}, config)
    notes = None if batches is None else batches.open("w", buffering=1, encoding="ascii")
    logs.configure(settings.log_level)
    _let_the_clock_jump()

    def building(given: ServeSettings) -> Parts:
        engine = Engine(
            given.folder, given.devices, max_batch=given.max_batch, threads=given.threads
        )
        watched: Any = WatchedEngine(engine, notes, poison=poison, seconds=seconds)
        return assemble(given, watched)

    run(settings, building=building)


def _let_the_clock_jump() -> None:
    """Put a clock that jumps into the place of `time.time`: what libraries read in C stays."""
    jumped = 0.0
    real = time.time

    def jump(by: float) -> None:
        nonlocal jumped
        jumped += by

    time.time = lambda: real() + jumped
    signal.signal(signal.SIGUSR1, lambda *_: jump(DAY))
    signal.signal(signal.SIGUSR2, lambda *_: jump(-2 * DAY))


if __name__ == "__main__":
    typer.run(main)
