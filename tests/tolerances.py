"""The tolerance table: how far a result may lie from its oracle, and why.

Everything that is not listed here is compared for equality.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Tolerance(NamedTuple):
    """Allowed: `|result - oracle| <= absolute + relative * |oracle|`."""

    relative: float
    absolute: float
    reason: str


ORTHONORMAL = Tolerance(
    0.0, 1e-6, "the matrix is computed in float64 and stored in float32 (half an ulp, 3e-8, each)"
)
DCT_COEFFICIENT = Tolerance(
    1e-5, 1e-5, "two float32 products of up to 64 terms of magnitude below 1, ulp 6e-8"
)
LOG_FEATURE = Tolerance(
    1e-5, 2e-3, "the log magnifies a float32 coefficient error of 1e-6 by 1 / floor = 1,000"
)
SCORE = Tolerance(
    1e-4, 5e-3, "a weighted sum of log features of LOG_FEATURE's error, weights of norm about 1"
)
RADIAL_BASIS = Tolerance(
    0.0, 1e-5, "gamma of 0.01 times a float32 squared distance of up to 5,000, good for half an ulp"
)
SCALED = Tolerance(
    1e-5, 1e-4, "float32 pixels on a scale of up to 255, there and back: some ulps of 1.5e-5"
)
RESCALED = Tolerance(2e-7, 0.0, "a float32 product by 255 and a division: two roundings of 6e-8")
HALF_SCORE = Tolerance(
    0.0, 2e-2, "SCORE's, of what a float16 rectifier removes: log energies off by 1e-3 each or less"
)
CONVOLUTION = Tolerance(
    1e-4, 1e-5, "float32 convolutions in a row, up to 500 terms each, in another order of summation"
)
LOGIT = Tolerance(1e-5, 1e-5, "one float32 linear layer, in another order of summation")
HALF_LOGIT = Tolerance(
    1e-3, 1e-2, "four float16 layers, each rounding sums of up to about 20 to 1/2048 of them"
)
HALF_RECTIFIED = Tolerance(
    0.0, 1e-3, "up to twelve float16 layers, each rounding sums of some tenths to 1/2048 of them"
)
NORMALISED = Tolerance(
    1e-6, 1e-6, "three float32 operations on values up to 255; mean and std are rounded too"
)
REWRITTEN = Tolerance(
    1e-5, 1e-6, "a float32 mean of 64 values in another order, or sine over cosine on [0, 1]"
)
BALL = Tolerance(0.0, 1e-6, "a float32 division and product by a length: some ulps of at most 2")
PROJECTION = Tolerance(2e-6, 1e-6, "float32 length of up to 48 values against float64")
NEAREST_POINT = Tolerance(
    0.0, 5e-5, "gap of up to 14 (a far point) times 2, of a float32 candidate: 28 * 2e-6"
)
LOSS = Tolerance(1e-5, 1e-5, "float32 log-sum-exp against float64")
UPDATE = Tolerance(1e-4, 1e-6, "moments kept in float32 over ten steps against float64")
SCHEDULE = Tolerance(1e-12, 0.0, "sum of 100 float64 step sizes, in another order")
AGGREGATED = Tolerance(
    1e-4, 1e-6, "float32 gradients of two layers along a walk of a dozen steps, against float64"
)
WORST_CASE = Tolerance(
    0.0, 2e-3, "100 steps approach the best l2 direction geometrically; left of a random start"
)
DEEPFOOL_STEP = Tolerance(
    1e-3, 1e-5, "float32 logit gap near the boundary, where two logits of about 1 cancel"
)
LIBRARY_STEP = Tolerance(
    2e-3, 2e-4, "without our nudge of 1e-4 over the boundary; rounding can cost one more iteration"
)
LIBRARY_DEEPFOOL = Tolerance(
    1e-2, 1e-3, "the library applies the overshoot of 2 % at the end, we at every iterate"
)
UNIVERSAL_STEP = Tolerance(
    1e-3, 1e-4, "the sum of many DEEPFOOL_STEPs, batched or alone, in another order"
)
POWER_METHOD = Tolerance(
    1e-4, 2e-5, "float32 products with up to 3,000 rows, their 9th powers, over a dozen iterations"
)
DIFFERENCE_QUOTIENT = Tolerance(
    1e-5, 1e-6, "float64 differences over 2e-7: rounding of 1e-15 magnified, and kinks far away"
)
WALK = Tolerance(1e-5, 1e-6, "float32 sum of some hundred steps against float64")
CONE_RESIDUAL = Tolerance(
    0.0, 1e-5, "distance of a float32 walk of l2 norm about 1 from the float64 cone of its bank"
)
CLIPPED_NORM = Tolerance(1e-5, 1e-6, "a bisection that ends at neighbouring float32 scales")
COSINE = Tolerance(1e-6, 1e-7, "float64 dot products of float32 values, in another order")
FIGURE = Tolerance(1e-12, 1e-12, "float64 arithmetic on counts, in another order")
INTERVAL = Tolerance(1e-9, 1e-9, "roots of a quadratic, by the companion matrix and in closed form")
BOOTSTRAP = Tolerance(
    0.1, 0.0, "2.5 % quantiles of 1,000 resamples are good for 5 %; the delta method is first order"
)
CONFORMAL = Tolerance(
    0.0, 4e-3, "mean of 4,000 simulated rates of standard deviation 0.042: six standard errors"
)
JACOBIAN = Tolerance(
    1e-4, 1e-5, "float32 gradients through two layers, against float64 central differences of 1e-6"
)
JACOBIAN_COSINE = Tolerance(
    0.0, 1e-5, "a float32 product of unit vectors of up to 432 values: some ulps of 6e-8 each"
)
SURROGATE = Tolerance(1e-4, 1e-4, "float32 logits of a guard on blended pictures, against float64")
SLOPE = Tolerance(1e-4, 1e-7, "central difference of 1e-5 or less in float64, away from kinks")
TEXTURE = Tolerance(
    1e-5, 2e-5, "sums of up to 100 float32 kernels of cosines, or lattice coordinates of up to 30"
)
LATTICE_SLOPE = Tolerance(
    0.0, 1e-2, "a difference over 1/1024 of a lattice unit: fade and cross terms of that order"
)
UNIT_VECTOR = Tolerance(
    1e-6, 1e-6, "a float32 vector divided by its length: some roundings of 6e-8"
)
PROJECTED_NORM = Tolerance(
    0.0, 5.0, "standard errors that a mean of 400 draws is off; beyond 5 once in two million"
)
WEIGHT_STEPS = Tolerance(
    2e-5, 2e-6, "float32 weights of about 0.1 after a few steps, each of sums of up to 150 terms"
)
PENALISED_STEP = Tolerance(
    1e-4, 2e-6, "one step along a float32 double gradient, in another order of summation"
)
SHARED_OUT = Tolerance(
    1e-4, 2e-6, "half mini-batches averaged, over a dozen steps: sums in another order"
)
SHARED_OUT_JOINT = Tolerance(
    2e-4, 1e-5, "SHARED_OUT's, where the logarithm of small energies magnifies what is rounded"
)
SHARED_OUT_ROUNDS = Tolerance(
    5e-3, 5e-4, "SHARED_OUT_JOINT's, which attacks on either guard magnify again: trained on both"
)
SHARED_OUT_FOUND = Tolerance(
    0.0, 5e-2, "attacks in l2 on guards that differ by SHARED_OUT_JOINT; values of 0.5"
)
SHARED_OUT_COUNTS = Tolerance(
    0.0, 0.051, "four of 80 pictures at the boundary of a label or a flag"
)
JOINT_SCORE = Tolerance(
    1e-4,
    1e-3,
    "a sum of up to 64 weighted float32 log energies over deviations of 0.1 or more",
)
RUNNING_MEAN = Tolerance(
    1e-5, 1e-5, "float32 means of log energies and their squares, up to 50, over a few updates"
)
BFLOAT16 = Tolerance(
    0.0, 2e-2, "logits of about 1 rounded to 1/256 of them, averaged over eight pictures"
)
VARIATION = Tolerance(
    1e-5, 1e-7, "a float32 combination and its l2 norm over up to 150 values, against float64"
)
SQUARED_JACOBIAN = Tolerance(
    2e-6, 2e-6, "float32 double backward, its sums in another order: some ten roundings of 6e-8"
)
FILTERED = Tolerance(
    1e-6, 1e-6, "sums of up to 25 float32 products of values in [0, 1], against float64"
)

EVIDENCE = Tolerance(
    1e-9, 0.0, "float64 sums and products of up to some hundred thousand steps, in another order"
)


def assert_close(result: ArrayLike, oracle: ArrayLike, tolerance: Tolerance) -> None:
    """Assert that `result` lies within `tolerance` of `oracle`; if not, say the row's reason."""
    np.testing.assert_allclose(
        np.asarray(result, dtype=np.float64),
        np.asarray(oracle, dtype=np.float64),
        rtol=tolerance.relative,
        atol=tolerance.absolute,
        err_msg=f"beyond the tolerance for: {tolerance.reason}",
    )
