"""The peer computes what its paper says, ours the same, and the tables what was measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.jacobian_peer import EXACT, FORMULA, Regulariser, by_formula, load_peer
from benchmarks.jacobian_penalty import OURS, agreement, render, speeds
from benchmarks.jacobian_steps import batch, gradient, network, our_step, peer_step
from prn_guard.errors import DataError
from tests.tolerances import SQUARED_JACOBIAN, assert_close

PUBLIC_SHAPE = """
import torch
class JacobianReg(torch.nn.Module):
    def __init__(self, n=1):
        super().__init__()
    def forward(self, x, y):
        return y.sum()
"""


def _two_layers() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    return layers, torch.randn(7, 3, 2, 2)


def _jacobians(layers: nn.Sequential, images: torch.Tensor) -> NDArray[np.float64]:
    """`(B, K, D)` of the two layers, by hand."""
    first, second = (
        layer.weight.detach().numpy().astype(np.float64)
        for layer in layers
        if isinstance(layer, nn.Linear)
    )
    bias = layers[1].bias.detach().numpy().astype(np.float64)
    flat = images.flatten(1).numpy().astype(np.float64)
    slopes = (flat @ first.T + bias > 0).astype(np.float64)
    return np.einsum("kh,bh,hd->bkd", second, slopes, first)


def _value(regularise: Regulariser, layers: nn.Module, images: torch.Tensor) -> float:
    watched = images.clone().requires_grad_()
    return float(regularise(watched, layers(watched)).detach())


def test_the_exact_peer_is_half_the_mean_squared_norm() -> None:
    layers, images = _two_layers()
    expected = np.square(_jacobians(layers, images)).sum() / (2 * len(images))
    assert_close(_value(by_formula(EXACT), layers, images), expected, SQUARED_JACOBIAN)


def test_the_peer_along_random_directions_is_that_on_average() -> None:
    layers, images = _two_layers()
    expected = np.square(_jacobians(layers, images)).sum() / (2 * len(images))
    torch.manual_seed(4)
    drawn = [_value(by_formula(1), layers, images) for _ in range(2000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - expected) < 4 * error


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_of_ours_has_the_gradient_of_the_peers(micro_batch: int | None) -> None:
    gradients = []
    for ours in (True, False):
        target = network("LeNet")
        images, labels = batch(target, 8)
        if ours:
            step = our_step(target, images, labels, projections=0, micro_batch=micro_batch)
        else:
            step = peer_step(
                target, images, labels, peer=FORMULA, projections=0, passes="evaluation"
            )
        step()
        gradients.append(gradient(target.classifier).numpy())
    scale = np.abs(gradients[1]).max()
    assert_close(gradients[0] / scale, gradients[1] / scale, SQUARED_JACOBIAN)


def test_values_and_gradients_agree() -> None:
    row = agreement("LeNet", 8, FORMULA)
    assert_close(row["values"][0], row["values"][1], SQUARED_JACOBIAN)
    for name in ("value", "gradient", "gradient_of_step"):
        assert row[name] <= SQUARED_JACOBIAN.relative, name


def test_the_peers_own_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "public.py"
    path.write_text(PUBLIC_SHAPE)
    peer = load_peer(path)
    assert peer.name.startswith("JacobianReg of public.py (SHA-256 ")
    assert float(peer.build(1)(torch.zeros(1), torch.ones(2, 3))) == 6
    assert load_peer(None) is FORMULA


def test_a_file_without_the_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text("")
    with pytest.raises(DataError, match="no class JacobianReg"):
        load_peer(path)


def test_both_contestants_are_timed_in_every_round() -> None:
    (row,) = speeds("LeNet", 4, 1, FORMULA, 3)
    assert row["rounds"] == 3
    assert 0 < row["times_faster"]["p5"] <= row["times_faster"]["median"]


def test_the_tables_show_what_was_measured() -> None:
    timed = {"network": "LeNet", "pictures": 100, "projections": 0, "rounds": 30}
    timed |= {"passes": "evaluation", "peer_ms": 150.04, "ours_ms": 100.0}
    taken = {"pictures": 512, "projections": 1, "before_mib": 300.0}
    text = render(
        {
            "peer": "somebody's",
            "hardware": "a CPU",
            "commit": "abc",
            "versions": {"torch": "2"},
            "agreement": [
                {"network": "LeNet", "value": 1e-7, "gradient": 2e-7, "gradient_of_step": 3e-7}
            ],
            "speed": [timed | {"times_faster": {"p5": 1.4, "median": 1.5, "p95": 1.6}}],
            "memory": [
                taken | {"contestant": OURS, "micro_batch": 32, "peak_mib": 500.0},
                taken | {"contestant": OURS, "micro_batch": None, "peak_mib": 900.0},
                taken | {"contestant": "both", "micro_batch": None, "peak_mib": 1000.0},
            ],
        }
    )
    assert (
        "| LeNet, 100 | exact | one pass, evaluation mode | 150.0 | 100.0 | 1.50 (1.40-1.60) "
        "| 1.0 | 30 |" in text
    )
    assert "| 512 | 1 | ours | 32 | 200 |" in text
    assert "| 512 | 1 | ours | none | 600 |" in text
    assert "| 512 | 1 | peer, a pass in each mode |  | 700 |" in text
    assert "LeNet 1e-07, 2e-07 and 3e-07" in text
