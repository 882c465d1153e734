"""The quick double backward gives what PyTorch's own gives in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tolerances import SQUARED_JACOBIAN, assert_close
from training.jacobians import basis_directions, squared_norms
from training.twice_differentiable import twice_differentiable


def _network(*, smooth: bool, affine: bool) -> nn.Sequential:
    torch.manual_seed(5)
    bend = nn.Softplus if smooth else nn.ReLU
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, affine=affine), bend(),
        nn.Conv2d(4, 6, 3, padding=(1, 0), groups=2, bias=False), nn.BatchNorm2d(6), bend(),
        nn.Conv2d(6, 4, 2, dilation=2), bend(), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    network(torch.randn(64, 2, 10, 10))
    return network.eval()


def _penalised(network: nn.Module, images: Tensor, *, quick: bool) -> tuple[Tensor, list[Tensor]]:
    """Squared norms plus a term of the logits themselves, and gradients by all weights."""
    watched = images.clone().requires_grad_()
    if quick:
        with twice_differentiable():
            logits = network(watched)
    else:
        logits = network(watched)
    norms = squared_norms(watched, logits, basis_directions(*logits.shape).to(images.dtype))
    (norms.mean() + logits.square().mean()).backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert len(gradients) == len(list(network.parameters()))
    assert watched.grad is not None
    return norms.detach(), [*gradients, watched.grad]


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_what_torch_does(smooth: bool, affine: bool, layout: torch.memory_format) -> None:
    network = _network(smooth=smooth, affine=affine).to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(5, 2, 10, 10, generator=torch.Generator().manual_seed(6))
    slow = _penalised(copy.deepcopy(network).double(), images.double(), quick=False)
    quick = _penalised(network, images, quick=True)
    assert_close(quick[0], slow[0], SQUARED_JACOBIAN)
    for one, other in zip(quick[1], slow[1], strict=True):
        scale = other.abs().max()
        assert_close(one / scale, other / scale, SQUARED_JACOBIAN)


class _InPlace(nn.Module):
    """A pre-activation block: what follows its convolutions changes their answers in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.second = nn.Conv2d(2, 2, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        answer = self.second(F.softplus(F.relu_(self.first(images)) - 0.1))
        answer += images
        return answer.flatten(1)[:, :4]


def test_answers_of_convolutions_may_be_changed_in_place() -> None:
    torch.manual_seed(8)
    network, images = _InPlace(), torch.randn(3, 2, 5, 5)
    slow = _penalised(copy.deepcopy(network).double(), images.double(), quick=False)
    quick = _penalised(network, images, quick=True)
    assert_close(quick[0], slow[0], SQUARED_JACOBIAN)
    for one, other in zip(quick[1], slow[1], strict=True):
        scale = other.abs().max()
        assert_close(one / scale, other / scale, SQUARED_JACOBIAN)


def test_the_gradient_by_the_picture_alone_leaves_the_weights_alone() -> None:
    network, images = _network(smooth=False, affine=True), torch.randn(2, 2, 10, 10)
    images.requires_grad_()
    with twice_differentiable():
        logits = network(images)
    torch.autograd.grad(logits.sum(), images, create_graph=True)
    assert all(weight.grad is None for weight in network.parameters())


def test_batch_statistics_are_left_to_torch() -> None:
    network, images = _network(smooth=False, affine=True).train(), torch.randn(8, 2, 10, 10)
    expected = copy.deepcopy(network)(images)
    with twice_differentiable():
        got = network(images.requires_grad_())
    assert_close(got.detach(), expected.detach(), SQUARED_JACOBIAN)
