"""The plot's axes."""

import re

import numpy as np
import pytest
from matplotlib import rc_context

from prn_guard.bench import summarise
from prn_guard.bench_report import plot


@pytest.mark.parametrize("spread", [1.3, 4.0, 300.0])
def test_the_plots_milliseconds_are_plain_numbers(tmp_path, spread):
    seconds = np.geomspace(0.002, 0.002 * spread, 3)
    results = [
        summarise(size, np.stack([np.full(20, 1.1 * t), np.full(20, t)], axis=1))
        for size, t in zip((1, 8, 64), seconds, strict=True)
    ]
    known = dict.fromkeys(("gpu", "cpu", "threads", "precision", "picture", "onnxruntime"), "x")
    with rc_context({"svg.fonttype": "none"}):
        plot(tmp_path / "p.svg", results, known)
    text = (tmp_path / "p.svg").read_text()
    labels = [float(n.replace(",", "")) for n in re.findall(r">([0-9.,]+)</text>", text)]
    assert "10^" not in text.replace("mathdefault", "10^")
    assert len([n for n in labels if 2 <= n <= 2 * spread * 1.1]) >= 2, labels
