"""The ball: what a projection, a start and a perturbed picture promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from prn_guard.errors import InvalidArgumentError
from tests.reference import projection as reference
from tests.tolerances import BALL, NEAREST_POINT, PROJECTION, assert_close
from training.attacks.norms import (
    Norm,
    check_ball,
    norm_of,
    perturb,
    project,
    random_start,
    steepest_direction,
)

Array = NDArray[np.float32]

NORMS = st.sampled_from(["linf", "l2"])
EPSILONS = st.floats(0.01, 2.0)
POINTS = hnp.arrays(
    np.float32,
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4)),
    elements=st.floats(-2, 2, width=32),
)


@settings(max_examples=100, deadline=None)
@given(point=POINTS, norm=NORMS, epsilon=EPSILONS)
def test_a_projection_is_the_nearest_point_of_the_ball(
    point: Array, norm: Norm, epsilon: float
) -> None:
    result = project(torch.from_numpy(point), norm, epsilon)
    assert float(norm_of(result, norm)) <= epsilon + BALL.absolute
    assert_close(result, reference.nearest(point, norm, epsilon), PROJECTION)
    assert reference.obtuse_gap(point, result, norm, epsilon) <= NEAREST_POINT.absolute


@settings(max_examples=50, deadline=None)
@given(point=POINTS, norm=NORMS, epsilon=EPSILONS)
def test_projecting_again_changes_nothing(point: Array, norm: Norm, epsilon: float) -> None:
    once = project(torch.from_numpy(point), norm, epsilon)
    assert_close(project(once, norm, epsilon), once, BALL)


@settings(max_examples=50, deadline=None)
@given(point=POINTS, norm=NORMS)
def test_a_point_inside_stays_as_it_is(point: Array, norm: Norm) -> None:
    inside = torch.from_numpy(point)
    epsilon = float(norm_of(inside, norm)) + 1e-3
    assert torch.equal(project(inside, norm, epsilon), inside)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_stack_is_projected_and_measured_member_by_member(norm: Norm) -> None:
    stack = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    stack[0, 0] *= 0.01
    result, sizes = project(stack, norm, 0.5), norm_of(stack, norm)
    assert sizes.shape == (2, 5)
    for row in range(2):
        for column in range(5):
            alone = stack[row, column]
            order = np.inf if norm == "linf" else 2
            size = np.linalg.norm(alone.double().numpy().ravel(), order)
            assert_close(sizes[row, column], size, PROJECTION)
            assert torch.equal(result[row, column], project(alone, norm, 0.5))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0, 3))
def test_a_perturbed_picture_stays_in_the_pixel_range(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 5, 5, generator=generator)
    perturbation = torch.randn(3, 5, 5, generator=generator) * size
    result = perturb(images, perturbation)
    oracle = np.clip(images.numpy() + perturbation.numpy()[None], 0, 1)
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert np.array_equal(result.numpy(), oracle)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_steepest_direction_gains_the_dual_norm(norm: Norm) -> None:
    gradient = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1))
    direction = steepest_direction(gradient, norm)
    values = gradient.double().numpy()
    dual = np.abs(values).sum() if norm == "linf" else np.sqrt((values**2).sum())
    assert_close(norm_of(direction, norm), 1.0, BALL)
    assert_close((direction.double() * gradient.double()).sum(), dual, PROJECTION)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_of_zero_moves_nothing(norm: Norm) -> None:
    assert not steepest_direction(torch.zeros(1, 4, 4), norm).any()


def test_a_linf_start_is_uniform_in_the_cube() -> None:
    start = random_start((3, 40, 40), "linf", 0.2, generator=torch.Generator().manual_seed(2))
    shares = torch.histc(start, bins=4, min=-0.2, max=0.2) / start.numel()
    # Four standard errors of a share of 1/4 among 4,800 values.
    assert float((shares - 0.25).abs().max()) < 4 * math.sqrt(0.25 * 0.75 / 4800)
    assert float(start.abs().max()) <= 0.2


def test_an_l2_start_is_of_random_direction_on_the_sphere() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (random_start((3, 40, 40), "l2", 2.0, generator=generator) for _ in range(2))
    assert_close(norm_of(torch.stack([first, second]), "l2"), [2.0, 2.0], PROJECTION)
    cosine = float((first * second).sum()) / 4
    assert abs(cosine) < 5 / math.sqrt(4800)


@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [
        ("l1", 0.1, "norm is 'l1'; expected 'linf' or 'l2'"),
        ("linf", 0.0, "epsilon is 0 in linf"),
        ("linf", -0.1, "epsilon is -0.1"),
        ("linf", 10.0, "divide by 255"),
        ("linf", math.nan, "epsilon is nan"),
        ("l2", 12.01, "at most 12 "),
        ("l2", math.inf, "epsilon is inf"),
    ],
)
def test_a_ball_that_makes_no_sense_is_refused(norm: str, epsilon: float, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_ball(norm, epsilon, (1, 12, 12))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1.0), ("l2", 12.0), ("l2", 1e-9)])
def test_the_largest_and_the_smallest_ball_are_allowed(norm: str, epsilon: float) -> None:
    check_ball(norm, epsilon, (1, 12, 12))
