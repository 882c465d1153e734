"""Heaps, shared adversarial training and per-image adversarial training in float64."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import InvalidArgumentError
from tests.reference.hardening import (
    Array,
    Labels,
    SoftmaxRegression,
    heap_attack,
    perturbed,
)
from tests.tolerances import BALL, LOSS, assert_close
from tests.training.hardening.networks import BATCH, ball, changing, trainer
from tests.training.hardening.walk import walk
from tests.training.small import SHAPE, trained_target
from training.attacks.norms import Norm, norm_of, random_start
from training.hardening import per_image_adversarial, shared_adversarial
from training.hardening.heaps import LOSS_THRESHOLD, heap_perturbations, under_heaps
from training.hardening.per_image_adversarial import adversarial_training
from training.hardening.shared_adversarial import shared_adversarial_training
from training.randomness import generator_for

EPSILON = 0.1


def _starts(step: int, heaps: int) -> Array:
    """The starts of the inner attack, as its generator draws them."""
    generator = generator_for(7, "inner attack", step)
    starts = [random_start(SHAPE, "linf", EPSILON, generator=generator) for _ in range(heaps)]
    return torch.stack(starts).flatten(1).double().numpy()


def _mixed(
    model: SoftmaxRegression, x: Array, labels: Labels, seen: Array, sigma: float, smoothing: float
) -> list[Array]:
    adversarial = model.gradients(seen, labels, smoothing)
    clean = model.gradients(x, labels, smoothing)
    return [sigma * a + (1 - sigma) * b for a, b in zip(adversarial, clean, strict=True)]


@pytest.mark.parametrize("sharedness", [1, 2, 8])
@pytest.mark.parametrize(("sigma", "smoothing"), [(0.5, 0.1), (0.8, 0.0), (0.0, 0.1)])
def test_the_objective_is_that_of_section_4(
    sharedness: int, sigma: float, smoothing: float
) -> None:
    def step(model: SoftmaxRegression, x: Array, labels: Labels, number: int) -> list[Array]:
        perturbations = heap_attack(
            model,
            x,
            labels,
            _starts(number, BATCH // sharedness),
            epsilon=EPSILON,
            steps=4,
            step_size=0.5 * EPSILON,
            smoothing=smoothing,
            threshold=-np.log(0.2),
        )
        return _mixed(model, x, labels, perturbed(x, perturbations), sigma, smoothing)

    method = partial(
        shared_adversarial_training,
        norm="linf",
        epsilon=EPSILON,
        sharedness=sharedness,
        sigma=sigma,
        label_smoothing=smoothing,
    )
    walk(method, step)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_adversarial_training_by_pgd_is_that_of_madry(share: float) -> None:
    count = round(share * BATCH)

    def step(model: SoftmaxRegression, x: Array, labels: Labels, number: int) -> list[Array]:
        perturbations = heap_attack(
            model,
            x[:count],
            labels[:count],
            _starts(number, count),
            epsilon=EPSILON,
            steps=3,
            step_size=2.5 * EPSILON / 3,
        )
        seen = np.concatenate([perturbed(x[:count], perturbations), x[count:]])
        return model.gradients(seen, labels)

    method = partial(
        adversarial_training,
        attack="pgd",
        norm="linf",
        epsilon=EPSILON,
        attack_steps=3,
        adversarial_share=share,
    )
    walk(method, step)


def test_adversarial_training_by_fgsm_is_one_step_of_length_epsilon() -> None:
    def step(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        signs = np.sign(model.input_gradients(x, labels))
        return model.gradients(perturbed(x, EPSILON * signs), labels)

    walk(partial(adversarial_training, attack="fgsm", norm="linf", epsilon=EPSILON), step)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_share_of_no_picture_trains_on_clean_ones(attack: str) -> None:
    method: Any = partial(adversarial_training, attack=attack, **ball(), adversarial_share=0.05)
    walk(method, lambda model, x, labels, _: model.gradients(x, labels))


def test_the_threshold_is_that_of_section_4_3() -> None:
    assert_close(LOSS_THRESHOLD, 1.6094379124341003, LOSS)
    assert shared_adversarial.STEP_SIZE == 0.5
    assert shared_adversarial.ATTACK_STEPS == 4
    assert per_image_adversarial.PGD_STEPS == 7


def test_pictures_beyond_the_threshold_no_longer_pull_at_the_perturbation() -> None:
    images = torch.full((2, *SHAPE), 0.5)
    labels = torch.tensor([0, 1])

    def loss_of(seen: Tensor, which: Tensor) -> Tensor:
        # The first picture's loss falls with the mean, less steeply than the second's rises.
        means = seen.mean(dim=(1, 2, 3))
        return torch.where(which == 0, 5 - means, 9 * means).clamp(max=4.0)

    found = heap_perturbations(
        loss_of,
        images,
        labels,
        sharedness=2,
        norm="linf",
        epsilon=EPSILON,
        steps=3,
        step_size=0.5 * EPSILON,
        generator=generator_for(0, "starts"),
    )
    # The second picture is beyond 4 at 0.5 already, the first always: nothing moves.
    start = random_start(SHAPE, "linf", EPSILON, generator=generator_for(0, "starts"))
    assert torch.equal(found[0], start)


def _losses(seen: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(trained_target()(seen), labels, reduction="none")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("sharedness", [1, 4, 8])
def test_heaps_are_attacked_apart_and_stay_in_the_ball(norm: Norm, sharedness: int) -> None:
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % 3
    options: dict[str, Any] = {
        "sharedness": sharedness, "norm": norm, "epsilon": EPSILON, "steps": 5, "step_size": 0.07,
    }  # fmt: skip
    together = heap_perturbations(
        _losses, images, labels, **options, generator=generator_for(0, "starts")
    )
    assert together.shape == (8 // sharedness, *SHAPE)
    assert not together.requires_grad
    assert float(norm_of(together, norm).max()) <= EPSILON + BALL.absolute
    generator = generator_for(0, "starts")
    for heap, found in enumerate(together):
        place = slice(heap * sharedness, (heap + 1) * sharedness)
        alone = heap_perturbations(
            _losses, images[place], labels[place], **options, generator=generator
        )
        assert_close(alone[0], found, LOSS)
    before = torch.stack(
        [random_start(SHAPE, norm, EPSILON, generator=generator_for(0, "starts")) for _ in range(1)]
    ).expand(8 // sharedness, -1, -1, -1)
    gain = (
        _losses(under_heaps(images, together), labels).sum()
        - _losses(under_heaps(images, before), labels).sum()
    )
    assert gain > 0


def test_each_heap_of_consecutive_pictures_is_under_its_own_perturbation() -> None:
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(2))
    perturbations = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(3)) - 0.5
    result = under_heaps(images, perturbations)
    for number in range(6):
        oracle = np.clip(images[number].numpy() + perturbations[number // 2].numpy(), 0, 1)
        assert np.array_equal(result[number].numpy(), oracle)


@pytest.mark.parametrize("sharedness", [0, -1, 3, 16])
def test_heaps_that_do_not_part_a_batch_are_refused(sharedness: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"sharedness is {sharedness}.*of 8 pictures"):
        shared_adversarial_training(trainer(changing()), **ball(), sharedness=sharedness)


@pytest.mark.parametrize("sigma", [-0.1, 1.5, float("nan")])
def test_an_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"sigma is .*between 0 and 1"):
        shared_adversarial_training(trainer(changing()), **ball(), sigma=sigma)


@pytest.mark.parametrize("steps", [0, -2])
def test_an_inner_attack_of_no_step_is_refused(steps: int) -> None:
    message = f"attack_steps is {steps}; expected 1 or more"
    with pytest.raises(InvalidArgumentError, match=message):
        adversarial_training(trainer(changing()), attack="pgd", **ball(), attack_steps=steps)
    with pytest.raises(InvalidArgumentError, match=message):
        shared_adversarial_training(trainer(changing()), **ball(), sharedness=2, attack_steps=steps)
