"""Singular-vector universal perturbations.

Source: Khrulkov and Oseledets 2018, "Art of singular vectors and universal adversarial
perturbations"; in the paper on Jacobian regularisation for universal perturbations, equations 4
and 5. The perturbation of unit p-norm that moves the features of a hidden layer farthest in
q-norm, to first order, over a batch of pictures: the (p, q)-singular vector of their stacked
Jacobian `J`, by the power method `v <- psi_p'(J^T psi_q(J v))` with
`psi_r(x) = sign(x) |x|^(r-1)` and `1/p + 1/p' = 1`, which never lets `|J v|_q` fall. p is the
norm of the ball. The Jacobian is never formed: only products with it and its transpose are.

Departures: the source compares the layers of each network by hand; here the end of every stage is
tried briefly on some crafting pictures and the best is kept, because no place suits all networks. A
classifier that shows no layer is attacked at its logits. A singular vector's sign is undetermined:
the one that fools more of the same crafting pictures is kept.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.job import AttackJob, Method
from training.attacks.layers import feature_maps, features_of
from training.attacks.norms import Norm, check_ball, norm_of, random_start, steepest_direction
from training.datasets import Pictures, Subset, batch_for

Product = Callable[[Tensor], Tensor]
Linearised = tuple[Product, Product]
"""Of a stack of Jacobians: `(C, H, W)` to features `(B, ...)`, and its transpose."""

BATCH: Final = 64
"""Pictures whose Jacobians are stacked, as in the source."""
ITERATIONS: Final = 20
ORDER: Final = 10.0
JUDGING_PICTURES: Final = 200
"""Crafting pictures that tell which sign and layer is better: a standard error of 3.5 %."""
TRIAL_BATCH: Final = 16
TRIAL_ITERATIONS: Final = 5


def singular_vector_uap(
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    start: Tensor | None = None,
    layer: str | None = None,
    order: float = ORDER,
    iterations: int = ITERATIONS,
    batch_size: int = BATCH,
    on_step: OnStep | None = None,
) -> Tensor:
    """One universal perturbation `(C, H, W)` float32 of norm `epsilon`.

    Memory does not grow with the number of pictures: `batch_size` of them are linearised, in
    chunks where they are big.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits; a torch module where a hidden layer
            is wanted. It must be differentiable twice.
        pictures: the crafting set, of which some are drawn.
        norm: of the ball: p is infinite for linf, 2 for l2.
        epsilon: its radius on [0, 1] pixels.
        generator: draws the pictures and the start.
        start: perturbation `(C, H, W)` to begin the power method with; None draws one.
        layer: whose features are to move, by its name in `named_modules`; None tries the
            end of every stage, and the logits, by `choose_layer`.
        order: q, at least 1; 2 with l2 is the ordinary singular vector.
        iterations: of the power method.
        batch_size: pictures whose Jacobians are stacked.
        on_step: told of every iteration.

    Raises:
        InvalidArgumentError: a ball that makes no sense, an unknown layer or one that does not
            respond to the pictures, a start of zeros, or an order, number of iterations or batch
            size out of range.
    """
    check_ball(norm, epsilon, pictures.shape)
    _check(order, iterations, batch_size)
    drawn = torch.randperm(len(pictures), generator=generator)
    judging = Subset(pictures, drawn[:JUDGING_PICTURES])
    if start is None:
        start = random_start(pictures.shape, norm, epsilon, generator=generator)
    start = start.to(pictures.device)
    if layer is None:
        layer = choose_layer(classifier, judging, start, norm=norm, epsilon=epsilon, order=order)
    vector = power_method(
        _Stacked(classifier, layer, pictures, drawn[:batch_size]),
        start,
        norm=norm,
        order=order,
        iterations=iterations,
        on_step=on_step,
    )
    rates = _rates(classifier, judging, predict(classifier, judging), epsilon * vector)
    return epsilon * vector if rates[0] >= rates[1] else -epsilon * vector


def power_method(
    stacked: Iterable[Linearised],
    start: Tensor,
    *,
    norm: Norm,
    order: float,
    iterations: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """The `v` `(C, H, W)` of unit p-norm that maximises `|J v|_q`, from `start`.

    Args:
        stacked: the parts of `J`, read anew in every iteration.
        start: `(C, H, W)`, not all zeros.
        norm: p, infinite for linf, 2 for l2.
        order: q, at least 1.
        iterations: how many.
        on_step: told of every iteration.

    Raises:
        InvalidArgumentError: `J v` vanishes, at the start or later.
    """
    vector = start / norm_of(start, norm).clamp(min=torch.finfo(start.dtype).tiny)
    for iteration in range(iterations):
        total, largest = torch.zeros_like(vector), 0.0
        for forwards, backwards in stacked:
            moved = forwards(vector)
            # Powers are taken of values relative to the largest one so far: the 9th power of a
            # feature leaves float32 at 2e4. The rest of the sum is brought to the same scale.
            before, largest = largest, max(largest, float(moved.abs().max()))
            if largest == 0:
                continue
            relative = moved / largest
            pulled = backwards(relative.sign() * relative.abs() ** (order - 1))
            total = total * (before / largest) ** (order - 1) + pulled
        if not bool(total.any()):
            raise InvalidArgumentError(
                "The layer does not respond to the perturbation at all: its features, or their "
                "gradients, are zero. Name another layer, or start from another perturbation."
            )
        if norm == "linf":
            # Where nothing pulls, any value is as good: a zero would never be left again, and the
            # powers of small features do underflow.
            vector = torch.where(total == 0, vector, total.sign())
        else:
            vector = steepest_direction(total, norm)
        if on_step is not None:
            on_step(iteration + 1, iterations)
    return vector


def choose_layer(
    classifier: Classifier,
    pictures: Pictures,
    start: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    order: float,
) -> str | None:
    """The layer whose singular vector fools most pictures: each of `stage_ends` is tried briefly.

    Args:
        classifier: as `singular_vector_uap` takes it.
        pictures: those to linearise at, the first 16, and those to judge by, all.
        start: `(C, H, W)`, not all zeros.
        norm: of the ball.
        epsilon: its radius.
        order: q.
    """
    clean = predict(classifier, pictures)
    tried: dict[str | None, float] = {}
    for layer in stage_ends(classifier, pictures):
        vector = power_method(
            _Stacked(classifier, layer, pictures, torch.arange(len(pictures))[:TRIAL_BATCH]),
            start,
            norm=norm,
            order=order,
            iterations=TRIAL_ITERATIONS,
        )
        tried[layer] = max(_rates(classifier, pictures, clean, epsilon * vector))
    return max(tried, key=lambda layer: tried[layer])


def stage_ends(classifier: Classifier, pictures: Pictures) -> list[str | None]:
    """The last layer of every stage, a stage being the layers whose feature maps are of one size.

    A map belongs to a stage while it has more than half the pixels of the stage's largest, because
    padding makes some a little larger. Layers with no more channels than the pictures only prepare
    the input, and maps of one pixel have been pooled: neither counts.

    Returns:
        Names in `named_modules`, the finest first, then None, which stands for the logits.
    """
    picture = torch.full((1, *pictures.shape), 0.5, device=pictures.device)
    remaining = {
        found.layer: found.height * found.width
        for found in feature_maps(classifier, picture)
        if found.channels > pictures.shape[0] and found.height * found.width > 1
    }
    ends: list[str | None] = []
    while remaining:
        stage = [layer for layer, size in remaining.items() if 2 * size > max(remaining.values())]
        ends.append(stage[-1])
        remaining = {layer: size for layer, size in remaining.items() if layer not in stage}
    return [*ends, None]


class _Stacked:
    """The stacked Jacobian of the features of some pictures, chunk by chunk.

    One chunk is linearised once and kept; several are linearised anew whenever they are read, so
    that the memory of one is enough.
    """

    def __init__(
        self,
        classifier: Classifier,
        layer: str | None,
        pictures: Pictures,
        positions: Tensor,
    ) -> None:
        # Half of what a plain pass would take: a graph that is differentiated twice takes double.
        chunk = max(1, batch_for(pictures.shape, 2 * BATCH) // 2)
        self._classifier, self._layer = classifier, layer
        self._pictures, self._chunks = pictures, torch.split(positions, chunk)
        self._kept = [self._linearised(positions)] if len(self._chunks) == 1 else None

    def __iter__(self) -> Iterator[Linearised]:
        yield from self._kept or map(self._linearised, self._chunks)

    def _linearised(self, positions: Tensor) -> Linearised:
        return linearise(self._classifier, self._layer, self._pictures.batch(positions))


def linearise(classifier: Classifier, layer: str | None, images: Tensor) -> Linearised:
    """Products with the Jacobian, at `images`, of their features by a perturbation of all.

    A product with the Jacobian is the derivative of one with its transpose, which is linear in
    what it multiplies: two backward passes work with every layer that can be differentiated
    twice, where forward-mode differentiation refuses users' own autograd functions.
    """
    shift = torch.zeros_like(images[0]).requires_grad_()
    features = features_of(classifier, layer, images + shift)
    weights = torch.zeros_like(features).requires_grad_()
    (pulled,) = torch.autograd.grad(features, shift, weights, create_graph=True)

    def forwards(vector: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, weights, vector, retain_graph=True)[0]

    def backwards(weights: Tensor) -> Tensor:
        return torch.autograd.grad(features, shift, weights, retain_graph=True)[0]

    return forwards, backwards


def _rates(
    classifier: Classifier, pictures: Pictures, clean: Tensor, perturbation: Tensor
) -> tuple[float, float]:
    """How many are fooled by `perturbation`, and by its opposite."""
    both = [predict(classifier, pictures, sign * perturbation) for sign in (1, -1)]
    return fooling_rate(clean, both[0]), fooling_rate(clean, both[1])


def _check(order: float, iterations: int, batch_size: int) -> None:
    if not 1 <= order < math.inf:
        raise InvalidArgumentError(f"order is {order}; expected at least 1, and finite.")
    if iterations < 1 or batch_size < 1:
        raise InvalidArgumentError(
            f"iterations is {iterations} and batch_size {batch_size}; expected at least 1 of each."
        )


def _craft(job: AttackJob) -> Tensor:
    return singular_vector_uap(
        job.classifier,
        job.pictures,
        norm=job.norm,
        epsilon=job.epsilon,
        generator=job.generator,
        start=job.start,
        iterations=ITERATIONS if job.steps is None else job.steps,
        on_step=job.on_step,
    )


SINGULAR_VECTOR = Method(
    summary="singular vector of a hidden layer's Jacobian",
    family="singular vector",
    craft=_craft,
    takes=frozenset({"start", "steps"}),
)
