"""SGA, Algorithm 1 of its paper, as plain loops over pictures of a network of the reference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tests.reference import projection
from tests.reference.deepfool import Network

Array = NDArray[np.float64]


def slope(network: Network, pictures: Array, perturbation: Array) -> Array:
    """Gradient `(D,)` of the mean cross-entropy to the clean predictions of `pictures` `(B, D)`.

    Pictures must stay inside [0, 1], where nothing is clipped.
    """
    total = np.zeros_like(perturbation)
    for picture in pictures:
        label = int(np.argmax(network.logits(picture)))
        moved = picture + perturbation
        surplus = softmax(network.logits(moved))
        surplus[label] -= 1.0
        total += network.jacobian(moved).T @ surplus
    return total / len(pictures)


def direction(gradient: Array, norm: str) -> Array:
    """The unit step along which the loss rises fastest."""
    return np.sign(gradient) if norm == "linf" else gradient / np.sqrt(np.sum(gradient**2))


def aggregated(
    network: Network,
    batches: Sequence[Array],
    perturbation: Array,
    *,
    norm: str,
    epsilon: float,
    size: float,
) -> Array:
    """Mean gradient `(D,)` over an inner walk, one step for each of `batches` `(B, D)`."""
    inner, met = perturbation, []
    for pictures in batches:
        met.append(slope(network, pictures, inner))
        inner = projection.nearest(inner + size * direction(met[-1], norm), norm, epsilon)
    return np.mean(met, axis=0)


def walk(
    network: Network,
    draws: Sequence[Sequence[Array]],
    start: Array,
    *,
    norm: str,
    epsilon: float,
    sizes: Sequence[float],
) -> Array:
    """Where `start` is after one outer step for each of `draws`."""
    outer = start
    for batches, size in zip(draws, sizes, strict=True):
        mean = aggregated(network, batches, outer, norm=norm, epsilon=epsilon, size=size)
        outer = projection.nearest(outer + size * direction(mean, norm), norm, epsilon)
    return outer
