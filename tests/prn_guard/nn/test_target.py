"""The wrapped target stays as it came: frozen, in evaluation mode, buffers untouched."""

import pytest
import torch
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.target import Target, count_classes, state_digest

SPEC = InputSpec(channels=3, height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def _target() -> Target:
    """Batch statistics and dropout: both answer otherwise in training mode."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )  # fmt: skip
    network[1].running_mean.normal_()
    return Target(network, SPEC)


def test_a_forward_in_a_training_module_changes_neither_buffers_nor_answers() -> None:
    target, images = _target(), torch.rand(6, 3, 8, 8)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    digest, answers = state_digest(target), target(images)
    around = nn.Sequential(nn.Identity(), target).train()
    assert around.training
    assert not any(module.training for module in target.modules())
    assert torch.equal(around(images), answers)
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert state_digest(target) == digest


def test_weights_are_frozen_but_gradients_reach_the_pixels() -> None:
    target = _target()
    assert not any(value.requires_grad for value in target.parameters())
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    target(images).sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert all(value.grad is None for value in target.parameters())


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked", "5.bias"])
def test_the_digest_sees_the_smallest_change_of_weight_or_buffer(name: str) -> None:
    target = _target()
    digest = state_digest(target)
    last = target.classifier.state_dict()[name].flatten()[-1:]
    last.copy_(last + 1 if last.dtype == torch.int64 else last.nextafter(torch.tensor(9.0)))
    assert state_digest(target) != digest


def test_the_digest_sees_names_shapes_and_dtypes() -> None:
    variants = [nn.Module() for _ in range(4)]
    values = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(4),
    ]
    for module, name, value in zip(variants, ["a", "a", "a", "b"], values, strict=True):
        module.register_buffer(name, value)
    assert len({state_digest(module) for module in variants}) == 4


def test_classes_are_counted_on_the_logits() -> None:
    assert count_classes(_target()) == 5
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with pytest.raises(TargetError, match=r"\(1, 1\); expected logits"):
        count_classes(Target(flat, SPEC))


def test_a_classifier_with_channels_last_gets_them_last() -> None:
    weight = torch.randn(5, 3 * 8 * 12, generator=torch.Generator().manual_seed(0))
    spec = SPEC.model_copy(update={"width": 12})
    last, first = nn.Linear(weight.shape[1], 5), nn.Linear(weight.shape[1], 5)
    last.weight = nn.Parameter(weight)
    first.weight = nn.Parameter(weight.reshape(5, 8, 12, 3).permute(0, 3, 1, 2).reshape(5, -1))
    last.bias = first.bias
    images = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    usual = Target(nn.Sequential(nn.Flatten(), first), spec)
    turned = Target(nn.Sequential(nn.Flatten(), last), spec.model_copy(update={"layout": "nhwc"}))
    # 288 terms of order 1 in float32, in another order: about 288 * 6e-8.
    assert float((turned(images) - usual(images)).abs().max()) < 2e-5
