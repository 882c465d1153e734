"""The perturbations that the files of these tests hold."""

import numpy as np
import pytest

from tests.training.perturbations.written import SHAPE, Array


@pytest.fixture
def stack() -> Array:
    values = np.random.default_rng(0).uniform(-0.1, 0.1, (2, *SHAPE))
    return values.astype(np.float32)
