"""Cross-entropies in bfloat16, penalties in float32."""

import torch
from torch import Tensor

from tests.tolerances import BFLOAT16, assert_close
from tests.training.hardening.networks import (
    changing,
    first_batch,
    linear,
    mean_of,
    trainer,
    unchanging,
    vector,
)
from training.hardening.jacobian import penalty_along
from training.hardening.plain import fine_tune


def test_bfloat16_is_for_cross_entropies_alone_and_stays_near_float32() -> None:
    kinds: list[torch.dtype] = []

    def penalty(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        kinds.append(logits.dtype)
        return penalty_along(training, 0)(images, logits, labels)

    target = changing()
    target.classifier[3].p = 0.0
    layers: list[torch.dtype] = []
    target.classifier[0].register_forward_hook(lambda _m, _i, output: layers.append(output.dtype))
    training = trainer(target, mixed_precision=True)
    exact = trainer(target)
    images, labels = first_batch(training)
    layers.clear()
    logits = training.logits(images)
    assert logits.dtype == torch.float32
    assert layers == [torch.bfloat16]
    assert_close(logits.detach(), exact.logits(images).detach(), BFLOAT16)
    before = vector(target)
    layers.clear()
    training.descend_penalised(images, labels, images, penalty, mean_of)
    assert kinds == [torch.float32]
    assert layers == [torch.float32, torch.bfloat16]
    assert all(weight.dtype == torch.float32 for weight in target.parameters())
    assert not torch.equal(before, vector(target))


def test_a_network_without_modes_is_run_in_bfloat16_too_where_that_is_asked() -> None:
    target = unchanging()
    layers: list[torch.dtype] = []
    target.classifier[0].register_forward_hook(lambda _m, _i, output: layers.append(output.dtype))
    training = trainer(target, mixed_precision=True)
    images, labels = first_batch(training)
    layers.clear()
    training.descend_penalised(images, labels, images, penalty_along(training, 1), mean_of)
    assert layers == [torch.float32, torch.bfloat16]


def test_a_training_in_bfloat16_comes_near_one_in_float32() -> None:
    found = []
    for mixed in (False, True):
        target = linear()
        fine_tune(trainer(target, mixed_precision=mixed))
        found.append(vector(target))
    begin = vector(linear())
    assert not torch.equal(*found)
    assert (found[0] - found[1]).norm() < 0.05 * (found[0] - begin).norm()
