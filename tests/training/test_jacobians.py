"""Jacobians against torch's own, closed forms and differences; projections by their mean."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import COSINE, DIFFERENCE_QUOTIENT, PROJECTED_NORM, UNIT_VECTOR, assert_close
from tests.training.small import SHAPE, VALUES
from training.jacobians import (
    basis_directions,
    exact_jacobians,
    random_directions,
    squared_norms,
)

COUNT, CLASSES = 5, 4


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int = COUNT) -> Tensor:
    return torch.rand(count, *SHAPE, generator=_seed(1), dtype=torch.float64).requires_grad_()


def _network(activation: nn.Module | None = None) -> nn.Sequential:
    """Batch statistics, dropout and pooling, as deployed, in float64."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), activation or nn.ReLU(),
        nn.Dropout(0.4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, CLASSES),
    ).double()  # fmt: skip
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(16, *SHAPE, dtype=torch.float64))
    return network.eval()


def _linear() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(VALUES, CLASSES)).double()


def test_exact_jacobians_are_those_of_torch() -> None:
    network, images = _network(), _images()
    result = exact_jacobians(images, network(images))
    for image, jacobian in zip(images.detach(), result, strict=True):
        oracle = torch.autograd.functional.jacobian(lambda one: network(one[None])[0], image)
        assert_close(jacobian, oracle, COSINE)


def test_the_jacobian_of_a_linear_classifier_is_its_matrix() -> None:
    network, images = _linear(), _images()
    logits = network(images)
    matrix = network[1].weight.detach()
    for jacobian in exact_jacobians(images, logits):
        assert torch.equal(jacobian.flatten(1), matrix)
    norms = squared_norms(images, logits, basis_directions(COUNT, CLASSES))
    assert_close(norms.detach(), np.full(COUNT, (matrix.numpy() ** 2).sum()), COSINE)


def test_the_axes_give_the_exact_norms() -> None:
    network, images = _network(), _images()
    logits = network(images)
    oracle = exact_jacobians(images, logits).square().sum(dim=(1, 2, 3, 4))
    norms = squared_norms(images, logits, basis_directions(COUNT, CLASSES))
    assert_close(norms.detach(), oracle, COSINE)


def test_any_orthonormal_basis_gives_the_exact_norms() -> None:
    network, images = _network(), _images()
    drawn = torch.randn(COUNT, CLASSES, CLASSES, generator=_seed(4), dtype=torch.float64)
    bases = torch.linalg.qr(drawn)[0].transpose(0, 1)
    logits = network(images)
    oracle = exact_jacobians(images, logits).square().sum(dim=(1, 2, 3, 4))
    assert_close(squared_norms(images, logits, bases).detach(), oracle, COSINE)


def test_projections_are_along_the_directions() -> None:
    network, images = _network(), _images()
    logits = network(images)
    directions = random_directions(COUNT, CLASSES, 3, generator=_seed(5))
    jacobians = exact_jacobians(images, logits).flatten(2).numpy()
    oracle = [
        CLASSES / 3 * sum(((v[i].double().numpy() @ jacobians[i]) ** 2).sum() for v in directions)
        for i in range(COUNT)
    ]
    assert_close(squared_norms(images, logits, directions).detach(), oracle, COSINE)


@pytest.mark.parametrize("number", [1, 3])
def test_random_directions_estimate_without_bias(number: int) -> None:
    network, images = _network(), _images()
    logits = network(images)
    exact = squared_norms(images, logits, basis_directions(COUNT, CLASSES)).detach().numpy()
    generator, draws = _seed(6), 400
    estimates = np.array(
        [
            squared_norms(
                images, logits, random_directions(COUNT, CLASSES, number, generator=generator)
            )
            .detach()
            .numpy()
            for _ in range(draws)
        ]
    )
    errors = (estimates.mean(axis=0) - exact) / (estimates.std(axis=0, ddof=1) / draws**0.5)
    assert_close(errors, np.zeros(COUNT), PROJECTED_NORM)


def test_directions_are_unit_vectors_everywhere() -> None:
    directions = random_directions(2000, CLASSES, 2, generator=_seed(7)).double()
    assert directions.shape == (2, 2000, CLASSES)
    assert_close(directions.norm(dim=2), np.ones((2, 2000)), UNIT_VECTOR)
    second_moment = torch.einsum("nbi,nbj->ij", directions, directions) / 4000
    deviation = (second_moment - torch.eye(CLASSES) / CLASSES).abs().max()
    assert deviation < 4 * (1 / CLASSES) / 4000**0.5  # an entry's deviation is below 1 / K


@pytest.mark.parametrize("number", [0, -1])
def test_no_projection_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"number of projections is {number}"):
        random_directions(2, CLASSES, number, generator=_seed())


def test_a_pictures_norm_does_not_depend_on_the_others() -> None:
    network, images = _network(), _images()
    directions = random_directions(COUNT, CLASSES, 2, generator=_seed(8))
    together = squared_norms(images, network(images), directions).detach()
    for number in range(COUNT):
        one = images[number : number + 1].detach().requires_grad_()
        alone = squared_norms(one, network(one), directions[:, number : number + 1])
        assert_close(alone.detach(), together[number : number + 1], COSINE)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.ReLU(inplace=True)])
def test_the_gradient_by_the_weights_is_that_of_differences(activation: nn.Module) -> None:
    network = _network(activation)
    weights = list(network.parameters())
    directions = random_directions(COUNT, CLASSES, 1, generator=_seed(9))

    def value() -> Tensor:
        images = _images()
        return squared_norms(images, network(images), directions).sum()

    gradients = torch.autograd.grad(value(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        way = torch.randn(weight.shape, generator=_seed(10), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(way, alpha=sign * 1e-6)
            values.append(value().item())
            with torch.no_grad():
                weight.sub_(way, alpha=sign * 1e-6)
        slope = 0.0 if gradient is None else float((gradient * way).sum())
        scale = max(abs(slope), 1.0)
        assert_close((values[0] - values[1]) / 2e-6 / scale, slope / scale, DIFFERENCE_QUOTIENT)
