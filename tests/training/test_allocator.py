"""A process that keeps what it frees is not charged for the same pages again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from training.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(*, keep: bool) -> int:
    program = PROGRAM.format(keep=keep)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc")
def test_large_blocks_are_kept() -> None:
    assert _page_faults(keep=True) < 0.2 * _page_faults(keep=False)
