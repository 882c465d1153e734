"""DeepFool against float64 iterates with Jacobians written down by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.reference.deepfool import NUDGE, Network, step
from tests.tolerances import DEEPFOOL_STEP, assert_close
from tests.training.small import SHAPE, VALUES, everything, gray_pictures, linear_classifier
from training.attacks.deepfool import NEAREST_CLASSES, OVERSHOOT, deepfool_steps
from training.attacks.norms import Norm

CLASSES = 12


def _network(*, hidden: int | None) -> Network:
    rng = np.random.default_rng(7)
    if hidden is None:
        return Network(rng.normal(0, 0.2, (CLASSES, VALUES)), rng.normal(0, 1, CLASSES))
    return Network(
        rng.normal(0, 1, (CLASSES, hidden)),
        rng.normal(0, 0.1, CLASSES),
        rng.normal(0, 0.4, (hidden, VALUES)),
        rng.normal(0, 1, hidden),
    )


def _as_module(network: Network) -> nn.Module:
    weights = [(network.outer, network.outer_bias)]
    if network.inner is not None and network.inner_bias is not None:
        weights.insert(0, (network.inner, network.inner_bias))
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _oracle(
    network: Network, images: Tensor, *, classes: int, iterations: int, norm: Norm = "l2"
) -> np.ndarray:
    return np.stack(
        [
            step(network, row, classes=classes, overshoot=0.02, iterations=iterations, norm=norm)
            for row in images.flatten(1).double().numpy()
        ]
    )


def test_one_step_crosses_a_plane_at_its_distance() -> None:
    images = everything(gray_pictures(12))
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    classifier = linear_classifier(normal, 0.5)
    values = (images * normal).sum(dim=(1, 2, 3)).double() + 0.5
    steps = deepfool_steps(classifier, images)
    length = float(normal.double().norm())
    distance = (values.abs() + NUDGE) / length * 1.02
    assert_close(steps.flatten(1).norm(dim=1), distance, DEEPFOOL_STEP)
    along = (steps * normal).sum(dim=(1, 2, 3)) / steps.flatten(1).norm(dim=1) / length
    assert_close(along, -values.sign(), DEEPFOOL_STEP)
    assert (classifier(images + steps).argmax(1) != classifier(images).argmax(1)).all()


def test_an_affine_classifier_needs_the_distance_to_the_nearest_of_its_planes() -> None:
    network, images = _network(hidden=None), everything(gray_pictures(15))
    steps = deepfool_steps(_as_module(network), images, classes=CLASSES, max_iterations=5)
    for image, found in zip(images.flatten(1).double().numpy(), steps, strict=True):
        logits = network.logits(image)
        home = int(np.argmax(logits))
        distances = [
            (logits[home] - logits[k]) / np.linalg.norm(network.outer[home] - network.outer[k])
            for k in range(CLASSES)
            if k != home
        ]
        assert float(found.norm()) == pytest.approx(1.02 * min(distances), rel=5e-3)
    assert_close(
        steps.flatten(1), _oracle(network, images, classes=CLASSES, iterations=5), DEEPFOOL_STEP
    )


def test_in_linf_one_step_crosses_a_plane_at_its_distance() -> None:
    images = everything(gray_pictures(12))
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    classifier = linear_classifier(normal, 0.5)
    values = (images * normal).sum(dim=(1, 2, 3)).double() + 0.5
    steps = deepfool_steps(classifier, images, norm="linf")
    distance = (values.abs() + NUDGE) / float(normal.double().abs().sum()) * 1.02
    corners = -values.sign()[:, None, None, None] * normal.sign()
    assert_close(steps, distance[:, None, None, None] * corners, DEEPFOOL_STEP)
    assert (classifier(images + steps).argmax(1) != classifier(images).argmax(1)).all()
    in_l2 = deepfool_steps(classifier, images).flatten(1)
    assert (steps.flatten(1).abs().amax(1) < in_l2.abs().amax(1)).all()
    assert (steps.flatten(1).norm(dim=1) > in_l2.norm(dim=1)).all()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_with_a_margin_the_other_class_has_to_lead(norm: Norm, dual: int) -> None:
    images = everything(gray_pictures(12))
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    classifier = linear_classifier(normal, 0.5)
    values = (images * normal).sum(dim=(1, 2, 3)).double() + 0.5
    steps = deepfool_steps(classifier, images, norm=norm, margin=2.0, overshoot=0.0)
    length = (values.abs() + 2.0 + NUDGE) / float(normal.double().norm(p=dual))
    found = steps.flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert_close(found, length, DEEPFOOL_STEP)
    reached = ((images + steps) * normal).sum(dim=(1, 2, 3)).double() + 0.5
    assert (reached * -values.sign() >= 2.0).all()


def test_a_label_that_was_left_already_costs_no_step() -> None:
    images = everything(gray_pictures(12))
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    classifier = linear_classifier(normal, 0.5)
    answers = classifier(images).argmax(dim=1)
    assert not deepfool_steps(classifier, images, labels=1 - answers).any()
    given = deepfool_steps(classifier, images, labels=answers)
    assert torch.equal(given, deepfool_steps(classifier, images))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("iterations", [1, 2, 3, 20])
@pytest.mark.parametrize("classes", [3, NEAREST_CLASSES])
def test_iterates_on_a_bent_boundary(norm: Norm, iterations: int, classes: int) -> None:
    network, images = _network(hidden=9), everything(gray_pictures(20))
    steps = deepfool_steps(
        _as_module(network), images, norm=norm, classes=classes, max_iterations=iterations
    ).flatten(1)
    oracle = _oracle(network, images, classes=classes, iterations=iterations, norm=norm)
    assert_close(steps, oracle, DEEPFOOL_STEP)


def test_some_pictures_need_more_iterations_than_others() -> None:
    network, images = _network(hidden=9), everything(gray_pictures(20))
    classifier = _as_module(network)
    home = classifier(images).argmax(1)

    def crossed(iterations: int) -> int:
        steps = deepfool_steps(classifier, images, max_iterations=iterations)
        return int((classifier(images + steps).argmax(1) != home).sum())

    assert 0 < crossed(2) < crossed(20) == 20


def test_a_batch_gives_every_picture_the_step_that_it_gets_alone() -> None:
    classifier, images = _as_module(_network(hidden=9)), everything(gray_pictures(6))
    together = deepfool_steps(classifier, images)
    alone = torch.cat([deepfool_steps(classifier, image[None]) for image in images])
    assert_close(together, alone, DEEPFOOL_STEP)


def test_the_overshoot_scales_the_step() -> None:
    images = everything(gray_pictures(4))
    classifier = linear_classifier(torch.ones(VALUES) / math.sqrt(VALUES))
    plain = deepfool_steps(classifier, images, overshoot=0.0, max_iterations=1)
    double = deepfool_steps(classifier, images, overshoot=1.0, max_iterations=1)
    assert OVERSHOOT == 0.02
    assert_close(double, 2 * plain, DEEPFOOL_STEP)
