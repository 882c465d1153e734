"""A peer of our Jacobian penalty: Hoffman, Roberts, Yaida 2019, as it was published.

Their regulariser is `1/2 ||J||_F^2`, the mean over a mini-batch, estimated by
`C / (2 n B) sum_j sum_i ||v_ij^T J(x_i)||^2` along n random unit vectors of the C-dimensional
output space, or exactly along its axes (equation 8 and algorithm 1 of "Robust Learning with
Jacobian Regularization"). Each direction is one backward pass whose graph is kept.

The authors' own file is loaded from where it lies; without one, `by_formula` computes the same.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from prn_guard.errors import DataError

EXACT: Final = -1
"""As a number of projections: every axis of the output space."""

Regulariser = Callable[[Tensor, Tensor], Tensor]
"""Maps images `(B, C, H, W)`, which require gradients, and their logits `(B, K)` to one value."""


@final
@dataclass(frozen=True)
class Peer:
    """An implementation of the regulariser."""

    name: str
    build: Callable[[int], Regulariser]
    """From the number of projections, `EXACT` for all."""


def by_formula(projections: int) -> Regulariser:
    """The regulariser from its paper's formula."""

    def regularise(images: Tensor, logits: Tensor) -> Tensor:
        count, classes = logits.shape
        number = classes if projections == EXACT else projections
        total = logits.new_zeros(())
        for index in range(number):
            if projections == EXACT:
                direction = torch.zeros(count, classes)
                direction[:, index] = 1.0
            else:
                drawn = torch.randn(count, classes)
                direction = drawn / drawn.norm(dim=1, keepdim=True)
            product = torch.autograd.grad(
                logits, images, direction.to(logits.device), create_graph=True
            )[0]
            total = total + product.square().sum()
        return classes * total / (2 * number * count)

    return regularise


FORMULA: Final = Peer("the paper's formula", by_formula)


def load_peer(path: Path | None) -> Peer:
    """The class `JacobianReg` of the Python file `path`; the formula where there is none.

    Raises:
        DataError: the file has no such class.
    """
    if path is None:
        return FORMULA
    spec = importlib.util.spec_from_file_location("jacobian_regularizer", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} is no Python file. Give the file that has the class JacobianReg.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "JacobianReg"):
        raise DataError(f"{path} has no class JacobianReg. Give the file of the public one.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Peer(f"JacobianReg of {path.name} (SHA-256 {digest})", module.JacobianReg)
