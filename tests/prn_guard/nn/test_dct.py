"""The transform and its features against SciPy's."""

import numpy as np
import pytest
import torch

from prn_guard.nn.dct import LOG_FLOOR, dct_matrix, gray, log_dct
from tests.reference import dct as reference
from tests.tolerances import DCT_COEFFICIENT, LOG_FEATURE, ORTHONORMAL, assert_close


def _difference(channels: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, channels, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("size", [1, 2, 7, 32, 64])
def test_the_matrix_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size).double()
    assert_close(matrix @ matrix.T, np.eye(size), ORTHONORMAL)


def test_row_k_of_the_matrix_holds_frequency_k() -> None:
    matrix = dct_matrix(16)
    changes = (matrix.sign()[:, 1:] != matrix.sign()[:, :-1]).sum(dim=1)
    assert changes.tolist() == list(range(16))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 12, 12), (3, 9, 16), (3, 64, 40)])
def test_coefficients_are_scipys(channels: int, height: int, width: int) -> None:
    difference = _difference(channels, height, width)
    result = dct_matrix(height) @ gray(difference) @ dct_matrix(width).T
    assert_close(result, reference.coefficients(difference), DCT_COEFFICIENT)


def test_the_transform_keeps_the_energy() -> None:
    difference = _difference(3, 20, 14)
    coefficients = dct_matrix(20) @ gray(difference) @ dct_matrix(14).T
    energy = gray(difference).double().square().sum(dim=(1, 2))
    assert_close(coefficients.double().square().sum(dim=(1, 2)), energy, DCT_COEFFICIENT)


def test_gray_weighs_red_green_and_blue_by_itu_r_601() -> None:
    pure = torch.eye(3)[:, :, None, None]
    assert gray(pure).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    single = _difference(1, 8, 8)
    assert torch.equal(gray(single), single[:, 0])


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 12, 12), (3, 32, 24)])
def test_features_are_the_log_magnitudes(channels: int, height: int, width: int) -> None:
    difference = _difference(channels, height, width, seed=1)
    result = log_dct(difference, dct_matrix(height), dct_matrix(width)).flatten(1)
    assert_close(result, reference.features(difference), LOG_FEATURE)


def test_nothing_removed_has_a_finite_feature() -> None:
    features = log_dct(torch.zeros(1, 3, 8, 8), dct_matrix(8), dct_matrix(8))
    assert LOG_FLOOR == reference.FLOOR
    assert_close(features, np.full((1, 8, 8), np.log(1e-3)), LOG_FEATURE)
