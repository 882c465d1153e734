"""Singular vectors against SciPy, against explicit Jacobians, and as an attack."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import svd
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.reference.singular_vectors import power_method as reference
from tests.reference.singular_vectors import tanh_jacobian
from tests.tolerances import BALL, DIFFERENCE_QUOTIENT, POWER_METHOD, assert_close
from tests.training.small import (
    SHAPE,
    VALUES,
    everything,
    gray_pictures,
    linear_classifier,
    pictures,
    trained_target,
)
from training.attacks.fooling import fooling_rate, predict
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, norm_of, random_start
from training.attacks.singular_vector import (
    SINGULAR_VECTOR,
    choose_layer,
    linearise,
    power_method,
    singular_vector_uap,
    stage_ends,
)
from training.datasets import ArrayPictures


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _start(seed: int = 5) -> Tensor:
    return random_start(SHAPE, "linf", 0.1, generator=_seed(seed))


def _linear(rows: int = 8) -> tuple[nn.Module, np.ndarray]:
    """A linear network whose singular values halve, and its matrix."""
    draw = np.random.default_rng(3)
    left = np.linalg.qr(draw.normal(size=(rows, rows)))[0]
    right = np.linalg.qr(draw.normal(size=(VALUES, rows)))[0]
    matrix = (left * 0.5 ** np.arange(rows)) @ right.T
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, rows))
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(matrix))
    return network.requires_grad_(requires_grad=False), network[1].weight.double().numpy()


def _hidden() -> nn.Sequential:
    """`tanh(W x + b)` is layer "2", and a module in place spoils it afterwards."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(VALUES, 30), nn.Tanh(), nn.ReLU(inplace=True), nn.Linear(30, 2)
    )
    return network.requires_grad_(requires_grad=False)


def _same_up_to_sign(result: Tensor, expected: np.ndarray) -> None:
    flat = result.double().flatten().numpy()
    sign = np.sign(flat @ expected)
    assert_close(sign * flat, expected, POWER_METHOD)


def test_of_a_linear_network_in_l2_it_is_the_right_singular_vector() -> None:
    network, matrix = _linear()
    crafted = singular_vector_uap(
        network, gray_pictures(30), norm="l2", epsilon=1.5, generator=_seed(), order=2
    )
    _same_up_to_sign(crafted / 1.5, svd(matrix)[2][0])


@pytest.mark.parametrize(("norm", "p"), [("linf", np.inf), ("l2", 2.0)])
@pytest.mark.parametrize("q", [1.0, 2.0, 10.0])
def test_of_a_linear_network_it_is_what_the_power_method_gives(
    norm: Norm, p: float, q: float
) -> None:
    network, matrix = _linear()
    crafted = singular_vector_uap(
        network,
        gray_pictures(5),
        norm=norm,
        epsilon=0.1,
        generator=_seed(),
        start=_start(),
        order=q,
        iterations=12,
    )
    expected, values = reference(matrix, _start(), p=p, q=q, iterations=12)
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(values))
    assert values[-1] > 1.2 * values[0]
    _same_up_to_sign(crafted / 0.1, expected)


@pytest.mark.parametrize(("norm", "p", "q"), [("linf", np.inf, 10.0), ("l2", 2.0, 2.0)])
@pytest.mark.parametrize("count", [10, 100])
def test_jacobians_of_several_pictures_are_stacked_in_one_chunk_or_more(
    norm: Norm, p: float, q: float, count: int
) -> None:
    network, known = _hidden(), gray_pictures(count)
    crafted = singular_vector_uap(
        network,
        known,
        norm=norm,
        epsilon=0.1,
        generator=_seed(),
        start=_start(),
        layer="2",
        order=q,
        iterations=6,
        batch_size=count,
    )
    inputs = everything(known).flatten(1)
    jacobian = tanh_jacobian(network[1].weight, network[1].bias, inputs)
    expected, _ = reference(jacobian, _start(), p=p, q=q, iterations=6)
    _same_up_to_sign(crafted / 0.1, expected)


def test_products_hold_through_the_layers_of_real_networks() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, groups=6), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    network.double().eval()
    images = torch.rand(4, *SHAPE, generator=_seed(), dtype=torch.float64)
    vector = torch.randn(SHAPE, generator=_seed(1), dtype=torch.float64)
    for layer in ("0", "1", "2", "3", "4", "5", None):
        part = network if layer is None else network[: int(layer) + 1]
        forwards, backwards = linearise(network, layer, images)
        moved = forwards(vector)
        with torch.no_grad():
            quotient = (part(images + 1e-7 * vector) - part(images - 1e-7 * vector)) / 2e-7
        assert_close(moved, quotient, DIFFERENCE_QUOTIENT)
        weights = torch.randn(moved.shape, generator=_seed(2), dtype=torch.float64)
        assert_close((moved * weights).sum(), (vector * backwards(weights)).sum(), POWER_METHOD)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("as_callable", [False, True])
def test_it_fools_on_unseen_pictures_at_a_layer_and_at_the_logits(
    norm: Norm, as_callable: bool
) -> None:
    target, epsilon = trained_target(), 0.15 if norm == "linf" else 1.8
    classifier = target.forward if as_callable else target
    crafted = singular_vector_uap(
        classifier, pictures(200, seed=2), norm=norm, epsilon=epsilon, generator=_seed()
    )
    unseen = pictures(200, seed=3)
    clean = predict(target, unseen)
    noise = random_start(SHAPE, norm, epsilon, generator=_seed())
    assert fooling_rate(clean, predict(target, unseen, noise)) < 0.1
    assert fooling_rate(clean, predict(target, unseen, crafted)) > 0.25
    assert_close(norm_of(crafted, norm), epsilon, BALL)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_of_both_signs_the_better_is_kept(seed: int) -> None:
    target, known = trained_target(), pictures(200, seed=2)
    crafted = singular_vector_uap(
        target, known, norm="linf", epsilon=0.1, generator=_seed(seed), iterations=3
    )
    clean = predict(target, known)
    rates = [fooling_rate(clean, predict(target, known, sign * crafted)) for sign in (1, -1)]
    assert rates[0] >= rates[1]


def test_only_some_pictures_are_read_however_many_there_are() -> None:
    read: set[int] = set()

    class Recording:
        def __getattr__(self, name: str) -> object:
            return getattr(known, name)

        def __len__(self) -> int:
            return len(known)

        def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
            read.update(indices.tolist())
            return known.batch(indices, crops=crops)

    known: ArrayPictures = pictures(2000, seed=2)
    singular_vector_uap(
        trained_target(), Recording(), norm="linf", epsilon=0.1, generator=_seed(), iterations=1
    )
    assert len(read) == 200


def test_every_iteration_is_told() -> None:
    told: list[tuple[int, int]] = []
    singular_vector_uap(
        trained_target(),
        pictures(20),
        norm="l2",
        epsilon=0.5,
        generator=_seed(),
        iterations=3,
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_layer_that_does_not_respond_is_refused() -> None:
    dead = linear_classifier(torch.zeros(SHAPE))
    with pytest.raises(InvalidArgumentError, match="does not respond to the perturbation"):
        singular_vector_uap(dead, pictures(20), norm="linf", epsilon=0.1, generator=_seed())
    forwards, backwards = linearise(trained_target(), None, everything(pictures(4)))
    with pytest.raises(InvalidArgumentError, match="start from another perturbation"):
        power_method(
            [(forwards, backwards)], torch.zeros(SHAPE), norm="linf", order=2, iterations=1
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l0"}, "norm is 'l0'"),
        ({"epsilon": 8.0}, "divide by 255"),
        ({"order": 0.5}, "order is 0.5; expected at least 1"),
        ({"order": float("inf")}, "order is inf; .* finite"),
        ({"order": float("nan")}, "order is nan"),
        ({"iterations": 0}, "iterations is 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"layer": "classifier.9"}, "no layer 'classifier.9'; .* classifier.0"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"norm": "linf", "epsilon": 0.1, "generator": _seed(), **change}
    with pytest.raises(InvalidArgumentError, match=message):
        singular_vector_uap(trained_target(), pictures(20), **arguments)


class _Stages(nn.Module):
    """Input scaling, a stage at full size with padding inside, a stage at half of it, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling = nn.Conv2d(1, 1, 1)
        self.first = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(self.scaling(images))).mean(dim=(2, 3)))
        return logits


def test_the_ends_of_stages_are_found() -> None:
    network = _Stages()
    assert stage_ends(network, pictures(1)) == ["first", "second", None]
    assert stage_ends(_hidden(), pictures(1)) == [None]
    assert stage_ends(network.forward, pictures(1)) == [None]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_layer_that_fools_most_is_chosen(norm: Norm) -> None:
    target, epsilon = trained_target(), 0.15 if norm == "linf" else 1.8
    known = pictures(200, seed=2)
    clean = predict(target, known)

    def crafted(layer: str | None) -> Tensor:
        return singular_vector_uap(
            target, known, norm=norm, epsilon=epsilon, generator=_seed(), layer=layer
        )

    layer = choose_layer(target, known, _start(), norm=norm, epsilon=epsilon, order=10)
    assert layer is None
    rates = [
        fooling_rate(clean, predict(target, known, crafted(name)))
        for name in (None, "classifier.2")
    ]
    assert rates[0] > rates[1]


def test_a_job_reaches_the_attack() -> None:
    told: list[tuple[int, int]] = []
    job = AttackJob(
        classifier=trained_target(),
        pictures=pictures(40),
        norm="l2",
        epsilon=1.0,
        generator=_seed(),
        start=_start(),
        steps=2,
        on_step=lambda done, total: told.append((done, total)),
    )
    crafted = SINGULAR_VECTOR.craft(job)
    assert told == [(1, 2), (2, 2)]
    expected = singular_vector_uap(
        trained_target(),
        pictures(40),
        norm="l2",
        epsilon=1.0,
        generator=_seed(),
        start=_start(),
        iterations=2,
    )
    assert torch.equal(crafted, expected)
    assert (crafted.shape, crafted.dtype, crafted.requires_grad) == (SHAPE, torch.float32, False)
