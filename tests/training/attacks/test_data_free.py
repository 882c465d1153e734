"""Activation energy against NumPy, the ascent where its end is known, and no picture read."""

from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, LOSS, assert_close
from tests.training.small import SHAPE, VALUES, pictures, trained_target
from training.attacks.data_free import (
    DATA_FREE,
    Prior,
    activation_energy,
    data_free_uap,
    weight_layers,
)
from training.attacks.fooling import fooling_rate, predict
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, norm_of, random_start


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _two_layers() -> nn.Sequential:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(VALUES, 9), nn.ReLU(inplace=True), nn.Linear(9, 4)
    )
    return network.requires_grad_(requires_grad=False)


def _one_layer(offset: float) -> tuple[nn.Module, Tensor]:
    """A linear layer whose answer is driven by its offset, and the direction that raises it."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 5))
    with torch.no_grad():
        network[1].bias.mul_(offset)
    network.requires_grad_(requires_grad=False)
    return network, (network[1].bias @ network[1].weight).reshape(SHAPE)


class _Unreadable:
    """Says how large its pictures are and where they would be put, and no more."""

    shape = SHAPE
    device = torch.device("cpu")

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was read")


def test_energy_is_the_sum_of_the_logarithms_of_norms() -> None:
    network = _two_layers()
    images = torch.rand(6, *SHAPE, generator=_seed())
    first, second = (
        (layer.weight.double().numpy(), layer.bias.double().numpy())
        for layer in (network[1], network[3])
    )
    before = images.double().flatten(1).numpy() @ first[0].T + first[1]
    after = np.maximum(before, 0) @ second[0].T + second[1]
    expected = np.log(np.linalg.norm(before)) + np.log(np.linalg.norm(after))
    assert_close(activation_energy(network, weight_layers(network), images), expected, LOSS)


def test_of_a_layer_of_zeros_the_energy_is_finite() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    energy = activation_energy(network, weight_layers(network), torch.zeros(1, *SHAPE)).detach()
    assert_close(energy, np.log(1e-12), LOSS)


@pytest.mark.parametrize("prior", ["none", "range"])
def test_where_the_end_is_known_it_is_reached(prior: Prior) -> None:
    network, direction = _one_layer(1e4)
    crafted = data_free_uap(
        network, SHAPE, norm="linf", epsilon=0.1, generator=_seed(), prior=prior
    )
    assert torch.equal(crafted, 0.1 * direction.sign())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("prior", ["none", "range"])
def test_it_raises_activations_and_fools_more_than_noise(norm: Norm, prior: Prior) -> None:
    target, epsilon = trained_target(), 0.2 if norm == "linf" else 2.4
    crafted = data_free_uap(
        target, SHAPE, norm=norm, epsilon=epsilon, generator=_seed(), prior=prior
    )
    noise = random_start(SHAPE, norm, epsilon, generator=_seed())
    unseen = pictures(200, seed=3)
    clean, layers = predict(target, unseen), weight_layers(target)
    energies = [float(activation_energy(target, layers, 0.5 + v[None])) for v in (noise, crafted)]
    assert energies[1] > energies[0] + 1
    rates = [fooling_rate(clean, predict(target, unseen, v)) for v in (noise, crafted)]
    assert rates[1] > rates[0] + 0.15
    assert float(norm_of(crafted, norm)) <= epsilon + BALL.absolute


def test_no_picture_is_read() -> None:
    job = AttackJob(
        classifier=trained_target(),
        pictures=_Unreadable(),
        norm="linf",
        epsilon=0.1,
        generator=_seed(),
        steps=3,
    )
    crafted = DATA_FREE.craft(job)
    assert (crafted.shape, crafted.dtype, crafted.requires_grad) == (SHAPE, torch.float32, False)


@pytest.mark.parametrize("prior", ["none", "range"])
def test_the_network_is_shown_pixels_only(prior: Prior) -> None:
    shown: list[Tensor] = []
    target = trained_target()
    handle = target.register_forward_pre_hook(
        lambda _module, inputs: shown.append(inputs[0].detach())
    )
    data_free_uap(target, SHAPE, norm="linf", epsilon=0.3, generator=_seed(), prior=prior, steps=2)
    handle.remove()
    assert [image.shape for image in shown] == [(1 if prior == "none" else 4, *SHAPE)] * 2
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in shown)


def test_it_goes_on_from_its_start_repeats_by_its_seed_and_tells_every_step() -> None:
    told: list[tuple[int, int]] = []

    def crafted(seed: int, start: Tensor | None = None) -> Tensor:
        return data_free_uap(
            trained_target(),
            SHAPE,
            norm="linf",
            epsilon=0.1,
            generator=_seed(seed),
            start=start,
            prior="none",
            steps=3,
            on_step=lambda done, total: told.append((done, total)),
        )

    assert torch.equal(crafted(1), crafted(1))
    assert not torch.equal(crafted(1), crafted(2))
    start = torch.full(SHAPE, 0.05)
    assert torch.equal(crafted(1, start), crafted(2, start))
    assert torch.equal(start, torch.full(SHAPE, 0.05))
    assert told == [(1, 3), (2, 3), (3, 3)] * 6


@pytest.mark.parametrize("kind", ["callable", "without layers", "layers not called"])
def test_a_classifier_that_shows_no_layers_is_refused(kind: str) -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(VALUES, 3)

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.layer.weight.T

    target = trained_target()
    classifier, name = {
        "callable": (target.forward, "method"),
        "without layers": (nn.Flatten(), "Flatten"),
        "layers not called": (Hidden(), "Hidden"),
    }[kind]
    with pytest.raises(InvalidArgumentError, match=f"a {name} that shows no convolution"):
        data_free_uap(classifier, SHAPE, norm="linf", epsilon=0.1, generator=_seed())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l0"}, "norm is 'l0'"),
        ({"epsilon": 8.0}, "divide by 255"),
        ({"prior": "noise"}, "prior is 'noise'"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"norm": "linf", "epsilon": 0.1, "generator": _seed(), **change}
    with pytest.raises(InvalidArgumentError, match=message):
        data_free_uap(trained_target(), SHAPE, **arguments)
