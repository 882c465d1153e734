"""Iterative DeepFool against a plain loop over pictures, and the price of taking them in chunks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from tests.reference import projection
from tests.reference.deepfool import Network, step
from tests.tolerances import BALL, UNIVERSAL_STEP, assert_close
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
from training.attacks.iterative_deepfool import iterative_deepfool_uap
from training.attacks.norms import Norm, norm_of
from training.datasets import ArrayPictures, Subset


def _tanh_network() -> Network:
    rng = np.random.default_rng(3)
    outer, inner = rng.normal(0, 1, (4, 6)), rng.normal(0, 0.3, (6, VALUES))
    # Centred on gray, and with a strong first class: its pictures are fooled one after another.
    return Network(outer, np.array([1.0, 0, 0, 0]), inner, -inner.sum(axis=1) / 2)


def _module(network: Network) -> nn.Module:
    first, second = nn.Linear(VALUES, 6), nn.Linear(6, 4)
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(network.inner))
        first.bias.copy_(torch.from_numpy(network.inner_bias))
        second.weight.copy_(torch.from_numpy(network.outer))
        second.bias.copy_(torch.from_numpy(network.outer_bias))
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)


def _plain_loop(
    network: Network, known: ArrayPictures, norm: str, epsilon: float, *, passes: int, seed: int
) -> np.ndarray:
    """Algorithm 1: picture after picture, each step from where the last one ended; best pass."""
    images = everything(known).flatten(1).double().numpy()
    clean = [int(np.argmax(network.logits(image))) for image in images]
    generator = torch.Generator().manual_seed(seed)
    universal = best = np.zeros(VALUES)
    most_fooled = 0
    for _ in range(passes):
        for number in torch.randperm(len(images), generator=generator).tolist():
            moved = np.clip(images[number] + universal, 0, 1)
            if np.argmax(network.logits(moved)) == clean[number]:
                found = step(network, moved, classes=10, overshoot=0.02, iterations=20)
                universal = projection.nearest(universal + found, norm, epsilon)
        moved = np.clip(images + universal, 0, 1)
        fooled = sum(np.argmax(network.logits(m)) != c for m, c in zip(moved, clean, strict=True))
        if fooled >= most_fooled:
            best, most_fooled = universal, fooled
    return best


def _craft(known: ArrayPictures | Subset, norm: Norm, epsilon: float, chunk: int) -> Tensor:
    return iterative_deepfool_uap(
        trained_target(),
        known,
        norm=norm,
        epsilon=epsilon,
        generator=torch.Generator().manual_seed(0),
        chunk=chunk,
    )


def _middle(count: int, *, seed: int) -> Subset:
    """Pictures of one class. Among three classes of one size the steps undo one another."""
    known = pictures(count, seed=seed)
    return Subset(known, torch.nonzero(known.labels == 1).flatten())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.3)])
@pytest.mark.parametrize("passes", [1, 3])
def test_in_chunks_of_one_it_is_the_published_loop(norm: Norm, epsilon: float, passes: int) -> None:
    network, known = _tanh_network(), gray_pictures(20)
    result = iterative_deepfool_uap(
        _module(network),
        known,
        norm=norm,
        epsilon=epsilon,
        generator=torch.Generator().manual_seed(5),
        wished_fooling_rate=1.0,
        max_passes=passes,
        margin=0.0,
        linearisations=20,
        fading=math.inf,
        chunk=1,
    )
    oracle = _plain_loop(network, known, norm, epsilon, passes=passes, seed=5)
    assert np.abs(oracle).max() > 0.02
    assert_close(result.flatten(), oracle, UNIVERSAL_STEP)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.08), ("l2", 1.0)])
def test_in_chunks_it_fools_about_as_well(norm: Norm, epsilon: float) -> None:
    known, unseen = _middle(200, seed=2), _middle(300, seed=9)
    clean = predict(trained_target(), unseen)
    rates = []
    for chunk in (1, 16, 64):
        crafted = _craft(known, norm, epsilon, chunk)
        assert float(norm_of(crafted, norm)) <= epsilon + BALL.absolute
        rates.append(fooling_rate(clean, predict(trained_target(), unseen, crafted)))
    assert min(rates) > 0.7
    assert max(rates) - min(rates) < 0.15


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4)])
def test_steps_of_a_chunk_start_from_one_place_and_are_added_up(norm: Norm, epsilon: float) -> None:
    network, known, passes, chunk = _tanh_network(), gray_pictures(18), 2, 4
    result = iterative_deepfool_uap(
        _module(network),
        known,
        norm=norm,
        epsilon=epsilon,
        generator=torch.Generator().manual_seed(5),
        wished_fooling_rate=1.0,
        max_passes=passes,
        margin=0.0,
        linearisations=20,
        fading=math.inf,
        chunk=chunk,
    )
    images = everything(known).flatten(1).double().numpy()
    clean = [int(np.argmax(network.logits(image))) for image in images]
    generator, universal, fooled = torch.Generator().manual_seed(5), np.zeros(VALUES), 0
    for _ in range(passes):
        order = torch.randperm(len(images), generator=generator).tolist()
        for first in range(0, len(order), chunk):
            total = np.zeros(VALUES)
            for number in order[first : first + chunk]:
                moved = np.clip(images[number] + universal, 0, 1)
                if np.argmax(network.logits(moved)) == clean[number]:
                    total += step(network, moved, classes=10, overshoot=0.02, iterations=20)
                else:
                    fooled += 1
            universal = projection.nearest(universal + total, norm, epsilon)
    assert 0 < fooled < passes * len(images)
    assert_close(result.flatten(), universal, UNIVERSAL_STEP)


def test_passes_end_when_the_wish_is_met_and_at_the_limit_in_any_case() -> None:
    known = _middle(90, seed=2)
    chunks = -(-len(known) // 16)

    def told(epsilon: float, wish: float) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        iterative_deepfool_uap(
            trained_target(),
            known,
            norm="linf",
            epsilon=epsilon,
            generator=torch.Generator().manual_seed(0),
            wished_fooling_rate=wish,
            max_passes=4,
            chunk=16,
            on_step=lambda done, total: seen.append((done, total)),
        )
        return seen

    assert told(0.2, 0.8) == [(done, 4 * chunks) for done in range(1, chunks + 1)]
    assert told(0.01, 0.8) == [(done, 4 * chunks) for done in range(1, 4 * chunks + 1)]


def test_a_picture_that_is_fooled_already_adds_nothing() -> None:
    known = gray_pictures(10)
    bright = linear_classifier(torch.ones(VALUES), -0.3 * VALUES)
    start = torch.full(SHAPE, -0.3)
    assert predict(bright, known).tolist() == [1] * 10
    assert predict(bright, known, start).tolist() == [0] * 10
    result = iterative_deepfool_uap(
        bright, known, norm="linf", epsilon=0.5, generator=torch.Generator(), start=start
    )
    assert torch.equal(result, start)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.25), ("l2", 2.5)])
def test_a_start_outside_the_ball_is_brought_inside(norm: Norm, epsilon: float) -> None:
    known, start = gray_pictures(10), torch.full(SHAPE, -0.5)
    bright = linear_classifier(torch.ones(VALUES), -0.3 * VALUES)
    result = iterative_deepfool_uap(
        bright, known, norm=norm, epsilon=epsilon, generator=torch.Generator(), start=start
    )
    assert_close(norm_of(result, norm), epsilon, BALL)
    assert torch.equal(start, torch.full(SHAPE, -0.5))


def test_a_seed_repeats_bit_by_bit() -> None:
    known = _middle(90, seed=2)
    first, second = _craft(known, "linf", 0.05, 8), _craft(known, "linf", 0.05, 8)
    assert torch.equal(first, second)
    other = iterative_deepfool_uap(
        trained_target(),
        known,
        norm="linf",
        epsilon=0.05,
        generator=torch.Generator().manual_seed(1),
        chunk=8,
    )
    assert not torch.equal(first, other)


def test_until_is_asked_after_every_chunk_and_ends_the_attack() -> None:
    told: list[int] = []
    seen: list[Tensor] = []

    def second(perturbations: Tensor) -> bool:
        seen.append(perturbations.clone())
        return len(seen) == 2

    crafted = iterative_deepfool_uap(
        trained_target(),
        _middle(90, seed=2),
        norm="linf",
        epsilon=0.1,
        generator=torch.Generator().manual_seed(0),
        wished_fooling_rate=1.0,
        chunk=8,
        until=second,
        on_step=lambda done, _: told.append(done),
    )
    assert told == [1, 2]
    assert seen[-1].shape == (1, *SHAPE)
    assert torch.equal(crafted[None], seen[-1])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("wish", [0.0, 1.01, -1.0])
def test_a_wish_that_makes_no_sense_is_refused(wish: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"wished_fooling_rate is {wish}"):
        iterative_deepfool_uap(
            trained_target(),
            pictures(10),
            norm="linf",
            epsilon=0.1,
            generator=torch.Generator(),
            wished_fooling_rate=wish,
        )


def test_a_ball_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="epsilon is 25"):
        _craft(pictures(10), "linf", 25.0, 16)
