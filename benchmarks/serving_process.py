"""A server in a process of its own, as benchmarks of serving start and end it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prn_guard.errors import PrnGuardError

COMMAND: Final = (sys.executable, "-c", "from prn_guard.cli import main; main()", "serve")
"""`prn-guard serve`."""
PROBED: Final = (sys.executable, "-m", "benchmarks.serving_server")
"""The same server around an engine that is watched."""
SECONDS: Final = 60.0
KEPT_LINES: Final = 1000


@dataclass
class Served:
    """A running server."""

    process: "subprocess.Popen[str]"
    ready: threading.Event = field(default_factory=threading.Event)
    addresses: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    """The last lines but those of single requests."""

    @property
    def port(self) -> int:
        """Of REST."""
        return int(self.addresses["port"])

    def resident_bytes(self) -> int:
        """Of the process, now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def loop_seconds(self) -> float:
        """Processor time of the event loop's thread: everything but sessions and decoding."""
        return _processor_seconds(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat"))

    def others_seconds(self) -> float:
        """Processor time of whatever is neither the server nor this process, since the start.

        Differences of it say how far a measurement had the machine to itself.
        """
        first, *_ = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        user, nice, system, _idle, _waiting, *interrupts = map(int, first.split()[1:9])
        busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        server = _processor_seconds(Path(f"/proc/{self.process.pid}/stat"))
        return busy - own.user - own.system - server


def _processor_seconds(stat: Path) -> float:
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(
    folder: Path, *flags: object, command: Sequence[str] = COMMAND, stop: bool = True
) -> Iterator[Served]:
    """Serve `folder` on a free port, without a token, until the block ends.

    Args:
        folder: the artifact.
        flags: further ones.
        command: `COMMAND` or `PROBED`.
        stop: send SIGTERM at the end; the block may have done that.

    Raises:
        PrnGuardError: the server did not become ready, or ended with an error.
    """
    environment = {name: text for name, text in os.environ.items() if "PRN_GUARD" not in name}
    arguments = [*command, folder, "--port", 0, *flags]
    with subprocess.Popen(  # noqa: S603 - our own server
        [str(part) for part in arguments], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        running = Served(process)
        reader = threading.Thread(target=_read, args=(running,))
        reader.start()
        try:
            if not running.ready.wait(SECONDS) or process.poll() is not None:
                raise PrnGuardError(f"The server did not start: {running.log[-3:]}")
            yield running
        except BaseException:
            process.kill()
            raise
        finally:
            if stop and process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
            reader.join()
        if process.returncode:
            raise PrnGuardError(f"The server ended with {process.returncode}: {running.log[-3:]}")


def _read(running: Served) -> None:
    """Take the server's log until it ends, so that no pipe fills."""
    for line in running.process.stderr or ():
        if '"message": "request"' in line:
            continue
        try:
            content = json.loads(line)
        except ValueError:
            content = {"message": line}
        running.log.append(content)
        del running.log[:-KEPT_LINES]
        if content.get("message") == "listening":
            running.addresses.update(content)
        elif content.get("message") == "ready":
            running.ready.set()
    running.ready.set()
