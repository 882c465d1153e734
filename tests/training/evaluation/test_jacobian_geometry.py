"""Sizes and directions of Jacobians, where they are known and beside central differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prn_guard.errors import DataError, InvalidArgumentError
from tests.reference import jacobian_geometry as reference
from tests.tolerances import BOOTSTRAP, FIGURE, JACOBIAN, JACOBIAN_COSINE, assert_close
from tests.training.small import (
    CLASSES,
    NAMES,
    SHAPE,
    VALUES,
    everything,
    gray_pictures,
    pictures,
    through_the_middle,
    trained_target,
)
from training.attacks.deepfool import deepfool_steps
from training.datasets import ArrayPictures
from training.evaluation import jacobian_geometry as measured
from training.evaluation.jacobian_geometry import (
    DEEPFOOL_ITERATIONS,
    balanced,
    jacobian_geometry,
    pairwise_cosines,
)

Array = NDArray[np.float64]


def _curved() -> tuple[nn.Module, Callable[[Array], Array]]:
    """A network of two tanh branches, each with its own scale, in torch and in NumPy."""
    torch.manual_seed(5)
    first, second = nn.Linear(VALUES, 7), nn.Linear(7, CLASSES)
    with torch.no_grad():
        first.weight.mul_(4)

    def forward(points: Array) -> Array:
        weights, offsets = (one.detach().double().numpy() for one in first.parameters())
        heads, levels = (one.detach().double().numpy() for one in second.parameters())
        return np.asarray(np.tanh(points @ weights.T + offsets) @ heads.T + levels)

    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second), forward


def _flat(images: Tensor) -> Array:
    return np.asarray(images.double().flatten(1).numpy())


def test_every_jacobian_of_a_linear_classifier_is_its_weights() -> None:
    classifier, normal = through_the_middle(gray_pictures(40))
    found = jacobian_geometry(classifier, gray_pictures(40), seed=0, batch_size=16)
    # The logits are -f/2 and f/2, so that ||W||^2 is half of ||normal||^2.
    size = float(normal.double().norm()) / np.sqrt(2)
    assert_close(found["norm"]["value"], size, JACOBIAN)
    assert found["deepfool_norm"] is not None
    assert_close(found["deepfool_norm"]["value"], size, JACOBIAN)
    assert_close(found["stacked_norm"], np.sqrt(40) * size, JACOBIAN)
    assert_close(found["stacked_bound"], 40 * size, JACOBIAN)
    similarity = found["similarity"]
    assert similarity is not None
    assert (found["n"], similarity["pairs"]) == (40, 40 * 39 // 2)
    for part in ("lower_quartile", "median", "upper_quartile"):
        assert_close(similarity[part], 1.0, JACOBIAN_COSINE)  # type: ignore[literal-required]
    assert similarity["histogram"]["counts"] == [0] * 79 + [780]
    assert (found["not_crossed"], found["without_direction"]) == (0, 0)


def test_a_curved_network_agrees_with_central_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measured, "ROWS_AT_ONCE", 7)
    network, forward = _curved()
    some = pictures(25, seed=6)
    jacobians = reference.difference_jacobians(forward, _flat(everything(some)))
    told: list[tuple[int, int]] = []
    found = jacobian_geometry(
        network,
        some,
        seed=0,
        batch_size=10,
        deepfool_pictures=12,
        on_step=lambda *step: told.append(step),
    )
    sizes = reference.norms(jacobians)
    assert_close(found["norm"]["value"], sizes.mean(), JACOBIAN)
    half = 1.96 * sizes.std() / np.sqrt(25)
    assert_close(found["norm"]["high"] - found["norm"]["low"], 2 * half, BOOTSTRAP)
    assert_close(found["stacked_norm"], reference.stacked_norm(jacobians), JACOBIAN)
    assert_close(
        found["stacked_bound"], reference.right_hand_side_of_equation_9(jacobians), JACOBIAN
    )
    assert found["stacked_norm"] < found["stacked_bound"]
    cosines = reference.similarities(jacobians)
    similarity = found["similarity"]
    assert similarity is not None
    assert similarity["pairs"] == len(cosines) == 300
    quartiles = [similarity["lower_quartile"], similarity["median"], similarity["upper_quartile"]]
    assert_close(quartiles, np.quantile(cosines, [0.25, 0.5, 0.75]), JACOBIAN_COSINE)
    assert quartiles[0] < quartiles[1] < quartiles[2]
    counts, edges = np.histogram(cosines, bins=80, range=(-1, 1))
    assert similarity["histogram"] == {"counts": counts.tolist(), "edges": edges.tolist()}
    assert told == [(10, 37), (20, 37), (25, 37), (35, 37), (37, 37)]


def test_deepfools_pictures_are_measured_where_they_lie() -> None:
    network, forward = _curved()
    some = pictures(25, seed=6)
    images = everything(some)[torch.arange(12) * 25 // 12]
    moved = images + deepfool_steps(network, images, max_iterations=DEEPFOOL_ITERATIONS)
    crossed = network(moved).argmax(dim=1) != network(images).argmax(dim=1)
    sizes = reference.norms(reference.difference_jacobians(forward, _flat(moved[crossed])))
    found = jacobian_geometry(network, some, seed=0, deepfool_pictures=12)
    assert found["deepfool_norm"] is not None
    assert found["deepfool_norm"]["n"] == len(sizes) > 0
    assert found["not_crossed"] == 12 - len(sizes)
    assert_close(found["deepfool_norm"]["value"], sizes.mean(), JACOBIAN)


def test_cosines_come_in_the_order_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((23, 6))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [float(units[i] @ units[j]) for i in range(23) for j in range(i + 1, 23)]
    for rows in (1, 5, 23, 1000):
        monkeypatch.setattr(measured, "ROWS_AT_ONCE", rows)
        assert_close(pairwise_cosines(torch.from_numpy(units).float()), expected, JACOBIAN_COSINE)


def test_pictures_without_a_direction_are_in_no_pair() -> None:
    network, _ = _curved()
    some = pictures(30, seed=3)

    def deaf(images: Tensor) -> Tensor:
        """Says the same of every picture whose first corner is bright."""
        bright = (images[:, 0, 0, 0] > 0.5)[:, None]
        return torch.where(bright, 0 * images.flatten(1)[:, :CLASSES], network(images))

    dark = int((everything(some)[:, 0, 0, 0] <= 0.5).sum())
    found = jacobian_geometry(deaf, some, seed=0, batch_size=8)
    assert found["similarity"] is not None
    assert 1 < dark < 30
    assert found["without_direction"] == 30 - dark
    assert found["similarity"]["pairs"] == dark * (dark - 1) // 2
    assert found["norm"]["n"] == 30
    alone = jacobian_geometry(lambda images: 0 * network(images), some, seed=0)
    assert (alone["similarity"], alone["deepfool_norm"]) == (None, None)
    assert (alone["without_direction"], alone["not_crossed"]) == (30, 30)
    assert alone["stacked_norm"] == alone["stacked_bound"] == 0


def test_weights_need_no_gradients_and_get_none() -> None:
    frozen = trained_target()
    assert not any(one.requires_grad for one in frozen.parameters())
    network, _ = _curved()
    for classifier in (frozen, network):
        jacobian_geometry(classifier, pictures(5), seed=0)
        assert all(one.grad is None for one in classifier.parameters())


def test_too_much_memory_and_senseless_numbers_are_refused() -> None:
    target, some = trained_target(), pictures(20)
    needed = 4 * (20 * CLASSES * VALUES + 190)
    jacobian_geometry(target, some, seed=0, largest_bytes=needed)
    with pytest.raises(DataError, match=r"20 pictures of 1x12x12 for 3 classes .* fewer pictures"):
        jacobian_geometry(target, some, seed=0, largest_bytes=needed - 1)
    with pytest.raises(InvalidArgumentError, match="deepfool_pictures is 0"):
        jacobian_geometry(target, some, seed=0, deepfool_pictures=0)
    with pytest.raises(InvalidArgumentError, match="count is 0"):
        balanced(some, 0, seed=0)


def _labelled(counts: tuple[int, ...]) -> ArrayPictures:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return ArrayPictures(torch.zeros(len(labels), *SHAPE, dtype=torch.uint8), labels, NAMES)


@pytest.mark.parametrize(
    ("counts", "wanted", "drawn"),
    [
        ((50, 60, 70), 30, (10, 10, 10)),
        ((50, 4, 70), 30, (13, 4, 13)),
        ((0, 40, 40), 30, (0, 15, 15)),
        ((3, 4, 5), 30, (3, 4, 5)),
    ],
)
def test_classes_are_drawn_alike(
    counts: tuple[int, ...], wanted: int, drawn: tuple[int, ...]
) -> None:
    some = balanced(_labelled(counts), wanted, seed=0)
    assert tuple(some.labels.bincount(minlength=3).tolist()) == drawn


def test_the_remainder_goes_to_different_classes_under_different_seeds() -> None:
    of = _labelled((30, 30, 30))
    counts = np.array([balanced(of, 10, seed=seed).labels.bincount().numpy() for seed in range(40)])
    assert (np.sort(counts, axis=1) == [3, 3, 4]).all()
    assert (counts == 4).any(axis=0).all()


def test_every_picture_is_drawn_about_as_often() -> None:
    of = _labelled((20, 20, 20))
    times = np.zeros(60)
    for seed in range(200):
        chosen = balanced(of, 15, seed=seed)._indices
        assert len(chosen.unique()) == 15
        times[chosen.numpy()] += 1
    # Binomial of 200 tries at 1/4: five standard deviations are 31.
    assert np.abs(times - 50).max() < 31
    again = [balanced(of, 15, seed=3)._indices for _ in range(2)]
    assert torch.equal(*again)
    assert_close(times.sum(), 200 * 15, FIGURE)
