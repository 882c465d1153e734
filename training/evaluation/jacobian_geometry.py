"""How large input-output Jacobians are, and how much those of different pictures point one way.

Sources: Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial
Perturbations": the stacked Jacobian of all pictures (equation 5), the bound on its norm (equation
9), the cosine similarity of two Jacobians (equation 10) and its histogram (section 4.3, figure 4);
Jakubovitz and Giryes 2018, "Improving DNN Robustness to Adversarial Attacks using Jacobian
Regularization", Table 1: the mean norm on pictures as they are and on DeepFool's.

Departures: the Frobenius norm of the stacked Jacobian is `sqrt(sum_i ||J_i||^2)` exactly, where
equation 9 bounds it by its right-hand side, `sum_i ||J_i||`; both are reported. Similarities are
those of the pairs i < j, where the source counts each pair twice and each picture with itself.
Pictures whose Jacobian is zero have no direction: they are in the norms and in no pair. DeepFool's
pictures are not clipped to [0, 1], as in its source; those that it does not carry over a boundary
are left out, counted and reported.
"""

from collections.abc import Iterator
from typing import Final, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.attacks.deepfool import deepfool_steps
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.datasets import Pictures, Subset, batch_for, batches, evenly_spaced
from training.evaluation.metrics import Figure, ratio
from training.jacobians import exact_jacobians
from training.randomness import generator_for

LARGEST_BATCH: Final = 200
DEEPFOOL_PICTURES: Final = 200
DEEPFOOL_ITERATIONS: Final = 50
BINS: Final = 80
LARGEST_BYTES: Final = 2**31
ROWS_AT_ONCE: Final = 1000
"""Rows of the Gram matrix that are computed together."""


class Histogram(TypedDict):
    """Counts between neighbouring edges."""

    counts: list[int]
    edges: list[float]
    """One more than counts, from -1 to 1."""


class Similarity(TypedDict):
    """Cosines of the Jacobians of two pictures, over all pairs."""

    median: float
    lower_quartile: float
    upper_quartile: float
    histogram: Histogram
    pairs: int


class JacobianGeometry(TypedDict):
    """Sizes and directions of a classifier's Jacobians, as plain JSON values."""

    n: int
    """Pictures."""
    norm: Figure
    """Mean Frobenius norm on clean pictures."""
    deepfool_norm: Figure | None
    """The same on pictures that DeepFool carried over a boundary; None where not one was."""
    not_crossed: int
    """Pictures whose label DeepFool did not change."""
    stacked_norm: float
    """Frobenius norm of the Jacobians of all pictures on top of each other."""
    stacked_bound: float
    """The right-hand side of equation 9 for it: the sum of their norms."""
    similarity: Similarity | None
    """None where no pair has two directions."""
    without_direction: int
    """Pictures whose Jacobian is zero."""


def jacobian_geometry(
    classifier: Classifier,
    pictures: Pictures,
    *,
    seed: int,
    batch_size: int = LARGEST_BATCH,
    deepfool_pictures: int = DEEPFOOL_PICTURES,
    largest_bytes: int = LARGEST_BYTES,
    on_step: OnStep | None = None,
) -> JacobianGeometry:
    """Measure the Jacobians of the logits at `pictures`, all of which are held at once.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits `(B, K)`, each picture for itself, on
            the device of `pictures`. Its weights need no gradients.
        pictures: what to measure on; their labels are not looked at. `balanced` chooses as the
            source does.
        seed: of the bootstrap.
        batch_size: pictures per pass, fewer big ones.
        deepfool_pictures: so many of them, evenly spaced, are also measured as DeepFool leaves
            them.
        largest_bytes: what Jacobians and similarities may take.
        on_step: told of the pictures done and the pictures in all, DeepFool's among them.

    Raises:
        DataError: Jacobians and similarities would take more than `largest_bytes`.
        InvalidArgumentError: `batch_size` or `deepfool_pictures` is below 1.
    """
    if deepfool_pictures < 1:
        raise InvalidArgumentError(f"deepfool_pictures is {deepfool_pictures}; expected 1 or more.")
    size = batch_for(pictures.shape, batch_size)
    some = evenly_spaced(pictures, deepfool_pictures)
    total = len(pictures) + len(some)
    values = _checked_size(classifier, pictures, largest_bytes)
    directions, norms = _directions(classifier, pictures, values, size, total, on_step)
    attacked = _deepfool_norms(classifier, some, size, total, on_step)
    return JacobianGeometry(
        n=len(pictures),
        norm=_mean(norms, seed),
        deepfool_norm=_mean(attacked, seed) if len(attacked) else None,
        not_crossed=len(some) - len(attacked),
        stacked_norm=float(np.sqrt(np.square(norms).sum())),
        stacked_bound=float(norms.sum()),
        similarity=_summary(pairwise_cosines(directions)),
        without_direction=len(pictures) - len(directions),
    )


def balanced(pictures: Pictures, count: int, *, seed: int) -> Subset:
    """`count` pictures drawn at random, as many of each class as of any other.

    Where `count` is no multiple of the classes, some that are drawn have one picture more; where a
    class has too few, all of them are taken and the others make up for it. Source: section 4.3.

    Raises:
        InvalidArgumentError: `count` is below 1.
    """
    if count < 1:
        raise InvalidArgumentError(f"count is {count}; expected 1 or more.")
    order = torch.randperm(len(pictures), generator=generator_for(seed, "balanced pictures"))
    labels = pictures.labels[order]
    # The place of each picture among those of its class: the first of all classes come first.
    places = torch.zeros_like(labels)
    for label in range(len(pictures.class_names)):
        members = labels == label
        places[members] = torch.arange(int(members.sum()))
    chosen = order[places.argsort(stable=True)[:count]]
    return Subset(pictures, chosen.sort().values)


def pairwise_cosines(directions: Tensor) -> NDArray[np.float32]:
    """Cosines of all pairs i < j of unit vectors `(N, D)` float32, `(N*(N-1)/2,)`.

    In the order of pairs (0, 1), (0, 2), ..., (1, 2), ...; the Gram matrix is computed some rows
    at a time.
    """
    number = len(directions)
    found = np.empty(number * (number - 1) // 2, dtype=np.float32)
    done = 0
    for begin in range(0, number, ROWS_AT_ONCE):
        rows = directions[begin : begin + ROWS_AT_ONCE]
        cosines = (rows @ directions[begin:].T).clamp(-1, 1).cpu().numpy()
        above = cosines[np.triu_indices(len(rows), 1, cosines.shape[1])]
        found[done : done + len(above)] = above
        done += len(above)
    return found


def _checked_size(classifier: Classifier, pictures: Pictures, largest_bytes: int) -> int:
    """Values of one Jacobian, where those of all pictures have room."""
    with torch.no_grad():
        classes = classifier(pictures.batch(torch.tensor([0]))).shape[1]
    channels, height, width = pictures.shape
    number = len(pictures)
    values = classes * channels * height * width
    needed = 4 * (number * values + number * (number - 1) // 2)
    if needed > largest_bytes:
        raise DataError(
            f"The Jacobians of {number} pictures of {channels}x{height}x{width} for {classes} "
            f"classes and the similarities of their pairs take {needed / 2**30:.2f} GiB; expected "
            f"at most {largest_bytes / 2**30:.2f}. Use fewer pictures."
        )
    return values


def _directions(
    classifier: Classifier,
    pictures: Pictures,
    values: int,
    batch_size: int,
    total: int,
    on_step: OnStep | None,
) -> tuple[Tensor, NDArray[np.float64]]:
    """Jacobians that are not zero, as unit vectors `(M, K*C*H*W)`, and the norms of all `(N,)`."""
    # Filled in place: a list that is joined in the end would take twice the memory.
    directions = torch.empty(len(pictures), values, device=pictures.device)
    norms: list[Tensor] = []
    kept = done = 0
    for images, _ in batches(pictures, batch_size):
        flat = _jacobians(classifier, images).flatten(1)
        lengths = flat.norm(dim=1, dtype=torch.float64)
        known = lengths > 0
        unit = flat[known] / lengths[known, None].to(flat.dtype)
        directions[kept : kept + len(unit)] = unit
        norms.append(lengths.cpu())
        kept += len(unit)
        done += len(images)
        if on_step is not None:
            on_step(done, total)
    return directions[:kept], torch.cat(norms).numpy()


def _deepfool_norms(
    classifier: Classifier,
    pictures: Pictures,
    batch_size: int,
    total: int,
    on_step: OnStep | None,
) -> NDArray[np.float64]:
    """Norms of the Jacobians where DeepFool leaves the pictures that it carries over, `(M,)`."""
    norms: list[Tensor] = []
    done = total - len(pictures)
    for images, moved in _moved(classifier, pictures, batch_size):
        if len(moved):
            found = _jacobians(classifier, moved).flatten(1).norm(dim=1, dtype=torch.float64)
            norms.append(found.cpu())
        done += len(images)
        if on_step is not None:
            on_step(done, total)
    return torch.cat(norms).numpy() if norms else np.empty(0)


def _moved(
    classifier: Classifier, pictures: Pictures, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, and those of each as DeepFool leaves them that have another label there."""
    for images, _ in batches(pictures, batch_size):
        moved = images + deepfool_steps(classifier, images, max_iterations=DEEPFOOL_ITERATIONS)
        with torch.no_grad():
            crossed = classifier(moved).argmax(dim=1) != classifier(images).argmax(dim=1)
        yield images, moved[crossed]


def _jacobians(classifier: Classifier, images: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    return exact_jacobians(leaf, classifier(leaf))


def _mean(norms: NDArray[np.float64], seed: int) -> Figure:
    return ratio(lambda means: float(means[0]), norms[:, None], seed=seed)


def _summary(cosines: NDArray[np.float32]) -> Similarity | None:
    if not len(cosines):
        return None
    # NumPy would give float32 values float32 edges, and -0.97500002 for -0.975.
    exact = cosines.astype(np.float64)
    counts, edges = np.histogram(exact, bins=BINS, range=(-1.0, 1.0))
    lower, median, upper = np.quantile(exact, [0.25, 0.5, 0.75])
    return Similarity(
        median=float(median),
        lower_quartile=float(lower),
        upper_quartile=float(upper),
        histogram=Histogram(counts=counts.tolist(), edges=edges.tolist()),
        pairs=len(cosines),
    )
