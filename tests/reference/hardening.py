"""Hardening of softmax regression `z = W x + b`, in float64 and by closed forms.

Pictures are rows of `X`, `(B, D)`; every rule is for the linf ball.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def softmax(logits: Array) -> Array:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass
class SoftmaxRegression:
    """A matrix, a bias, and the velocities of SGD with momentum."""

    matrix: Array
    bias: Array
    rate: float
    momentum: float = 0.9
    velocity: list[Array] = field(default_factory=list)

    def residuals(self, X: Array, labels: Labels, smoothing: float = 0.0) -> Array:  # noqa: N803
        """`d cross-entropy_i / d z_i`, `(B, K)`."""
        classes = len(self.bias)
        wanted = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
        return softmax(X @ self.matrix.T + self.bias) - wanted

    def losses(self, X: Array, labels: Labels, smoothing: float = 0.0) -> Array:  # noqa: N803
        """Cross-entropy of each row, `(B,)`."""
        classes = len(self.bias)
        wanted = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
        return np.asarray(-(wanted * np.log(softmax(X @ self.matrix.T + self.bias))).sum(axis=1))

    def input_gradients(self, X: Array, labels: Labels, smoothing: float = 0.0) -> Array:  # noqa: N803
        """`d cross-entropy_i / d x_i`, `(B, D)`."""
        return self.residuals(X, labels, smoothing) @ self.matrix

    def gradients(self, X: Array, labels: Labels, smoothing: float = 0.0) -> list[Array]:  # noqa: N803
        """Of the mean cross-entropy, by matrix and bias."""
        residuals = self.residuals(X, labels, smoothing)
        return [residuals.T @ X / len(X), residuals.mean(axis=0)]

    def step(self, gradients: list[Array]) -> None:
        """One step of SGD with momentum."""
        if not self.velocity:
            self.velocity = [np.zeros_like(one) for one in gradients]
        for number, gradient in enumerate(gradients):
            self.velocity[number] = self.momentum * self.velocity[number] + gradient
        self.matrix = self.matrix - self.rate * self.velocity[0]
        self.bias = self.bias - self.rate * self.velocity[1]


def perturbed(X: Array, perturbation: Array) -> Array:  # noqa: N803
    """Kept in [0, 1]."""
    return np.clip(X + perturbation, 0, 1)


def ascent(
    model: SoftmaxRegression,
    X: Array,  # noqa: N803
    labels: Labels,
    perturbation: Array,
    *,
    smoothing: float = 0.0,
    threshold: float = np.inf,
) -> Array:
    """Gradient by the perturbation of the mean loss, where a loss beyond `threshold` is flat."""
    seen = X + perturbation
    inside = (seen >= 0) & (seen <= 1)
    seen = np.clip(seen, 0, 1)
    pulls = model.losses(seen, labels, smoothing) <= threshold
    gradients = model.input_gradients(seen, labels, smoothing) * inside * pulls[:, None]
    return np.asarray(gradients.mean(axis=0))


def heap_attack(
    model: SoftmaxRegression,
    X: Array,  # noqa: N803
    labels: Labels,
    starts: Array,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    smoothing: float = 0.0,
    threshold: float = np.inf,
) -> Array:
    """Each picture's perturbation `(B, D)`: that of its heap, heap by heap."""
    size = len(X) // len(starts)
    found = []
    for heap, start in enumerate(starts):
        place = slice(heap * size, (heap + 1) * size)
        point = start.copy()
        for _ in range(steps):
            gradient = ascent(
                model, X[place], labels[place], point, smoothing=smoothing, threshold=threshold
            )
            point = np.clip(point + step_size * np.sign(gradient), -epsilon, epsilon)
        found += [point] * size
    return np.array(found)


def jacobian_penalty(model: SoftmaxRegression, weight: float) -> list[Array]:
    """Gradient of `weight / 2 * ||W||_F^2`."""
    return [weight * model.matrix, np.zeros_like(model.bias)]


def root_penalty(model: SoftmaxRegression, weight: float, pictures: int) -> list[Array]:
    """Gradient of `weight * sqrt(pictures * ||W||_F^2) / pictures`."""
    length = np.sqrt((model.matrix**2).sum())
    return [weight / np.sqrt(pictures) * model.matrix / length, np.zeros_like(model.bias)]


def input_gradient_penalty(
    model: SoftmaxRegression,
    X: Array,  # noqa: N803
    labels: Labels,
    weight: float,
) -> list[Array]:
    """Gradient of `weight * mean_i ||W^T (p_i - y_i)||^2`, picture by picture."""
    by_matrix, by_bias = np.zeros_like(model.matrix), np.zeros_like(model.bias)
    answers = softmax(X @ model.matrix.T + model.bias)
    for x, p, r in zip(X, answers, model.residuals(X, labels), strict=True):
        gradient = model.matrix.T @ r
        by_logits = (np.diag(p) - np.outer(p, p)) @ (2 * model.matrix @ gradient)
        by_matrix += 2 * np.outer(r, gradient) + np.outer(by_logits, x)
        by_bias += by_logits
    return [weight * by_matrix / len(X), weight * by_bias / len(X)]


def cross_lipschitz_value(jacobians: Array) -> Array:
    """`mean_{j,k} ||J_k - J_j||^2` of Jacobians `(B, K, D)`, pair by pair."""
    classes = jacobians.shape[1]
    return np.array(
        [
            sum(((one[j] - one[k]) ** 2).sum() for j in range(classes) for k in range(classes))
            / classes**2
            for one in jacobians
        ]
    )


def cross_lipschitz_penalty(model: SoftmaxRegression, weight: float) -> list[Array]:
    """Gradient of `weight * mean_{j,k} ||w_k - w_j||^2`, pair by pair."""
    gradient = np.zeros_like(model.matrix)
    classes = len(model.bias)
    for j in range(classes):
        for k in range(classes):
            difference = model.matrix[k] - model.matrix[j]
            gradient[k] += 2 * difference
            gradient[j] -= 2 * difference
    return [weight * gradient / classes**2, np.zeros_like(model.bias)]
