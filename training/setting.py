"""Where a result comes from: processor and versions."""

import os
import platform
from pathlib import Path

import torch

from prn_guard.version import __version__


def hardware() -> str:
    """Processor model and count, as far as the system tells."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} CPUs"


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "prn-guard": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
