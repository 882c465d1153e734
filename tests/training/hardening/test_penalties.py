"""Regularisation by Jacobians and input gradients, against closed forms of softmax regression."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.reference.hardening import (
    Array,
    Labels,
    SoftmaxRegression,
    cross_lipschitz_penalty,
    cross_lipschitz_value,
    input_gradient_penalty,
    jacobian_penalty,
    perturbed,
    root_penalty,
)
from tests.tolerances import LOGIT, PENALISED_STEP, assert_close
from tests.training.hardening.networks import (
    BATCH,
    ball,
    changing,
    first_batch,
    linear,
    trainer,
)
from tests.training.hardening.walk import flat, model_of, walk
from training.hardening import cross_lipschitz
from training.hardening.cross_lipschitz import cross_lipschitz_regularisation
from training.hardening.input_gradient import (
    input_gradient_regularisation,
    squared_input_gradients,
)
from training.hardening.jacobian import jacobian_regularisation, penalty_along
from training.hardening.jacobian_post_processing import jacobian_post_processing
from training.hardening.per_image_adversarial import with_adversarial_share
from training.jacobians import exact_jacobians

WEIGHT = 0.3


def _sum(one: list[Array], other: list[Array]) -> list[Array]:
    return [a + b for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_joint_loss_is_equation_11_with_fgsm_examples_for_the_cross_entropy_alone(
    share: float,
) -> None:
    count = round(share * BATCH)

    def step(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        # Equation 16 of Jakubovitz and Giryes.
        signs = np.sign(model.input_gradients(x, labels))
        seen = np.concatenate([perturbed(x, 0.1 * signs)[:count], x[count:]])
        return _sum(model.gradients(seen, labels), jacobian_penalty(model, WEIGHT))

    walk(
        partial(
            jacobian_regularisation, **ball(), weight=WEIGHT, projections=0, adversarial_share=share
        ),
        step,
    )


def test_the_post_processing_form_is_equation_4() -> None:
    def step(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        return _sum(model.gradients(x, labels), root_penalty(model, WEIGHT, BATCH))

    walk(partial(jacobian_post_processing, **ball(), weight=WEIGHT, projections=0), step)


def test_input_gradients_are_penalised_as_in_equation_5() -> None:
    def step(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        penalty = input_gradient_penalty(model, x, labels, WEIGHT)
        return _sum(model.gradients(x, labels), penalty)

    walk(partial(input_gradient_regularisation, **ball(), weight=WEIGHT), step)


def test_cross_lipschitz_steps_are_those_of_equation_6_summed_pair_by_pair() -> None:
    def step(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        return _sum(model.gradients(x, labels), cross_lipschitz_penalty(model, WEIGHT))

    walk(partial(cross_lipschitz_regularisation, **ball(), weight=WEIGHT, projections=0), step)


def _deployed() -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, logits and labels of a network with pooling, as deployed."""
    training = trainer(changing())
    images, labels = first_batch(training)
    images.requires_grad_()
    training.target.classifier.eval()
    return images, training.target(images), labels


def test_the_cross_lipschitz_value_is_the_double_sum() -> None:
    images, logits, labels = _deployed()
    jacobians = exact_jacobians(images, logits).flatten(2).double().numpy()
    penalty = cross_lipschitz.cross_lipschitz_penalty(penalty_along(trainer(changing()), 0))
    result = penalty(images, logits, labels).detach()
    assert_close(result, cross_lipschitz_value(jacobians), LOGIT)


def test_input_gradients_are_those_of_the_cross_entropy_of_each_picture() -> None:
    images, logits, labels = _deployed()
    jacobians = exact_jacobians(images, logits).flatten(2).double().numpy()
    chances = logits.detach().double().softmax(dim=1).numpy()
    residuals = chances - np.eye(3)[labels.numpy()]
    oracle = [((r @ j) ** 2).sum() for r, j in zip(residuals, jacobians, strict=True)]
    result = squared_input_gradients(images, logits, labels).detach()
    assert_close(result, oracle, LOGIT)


def test_directions_differ_from_step_to_step_and_from_picture_to_picture() -> None:
    training = trainer(linear())
    images, labels = first_batch(training)
    images.requires_grad_()
    found = []
    for step in (0, 0, 1):
        training.step = step
        found.append(penalty_along(training, 1)(images, training.target(images), labels).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert len(set(found[0].tolist())) == BATCH  # of one matrix, along different directions


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_are_one_step_of_fgsm_of_the_network_as_deployed(norm: str) -> None:
    target = linear()
    training = trainer(target)
    images, labels = first_batch(training)
    model = model_of(target)
    gradients = model.input_gradients(flat(images), labels.numpy())
    if norm == "linf":
        move = np.sign(gradients)
    else:
        move = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    seen = with_adversarial_share(
        training,
        images,
        labels,
        share=0.5,
        norm=norm,
        epsilon=0.1,  # type: ignore[arg-type]
    )
    assert_close(flat(seen)[:4], perturbed(flat(images), 0.1 * move)[:4], PENALISED_STEP)
    assert torch.equal(seen[4:], images[4:])
    assert target.classifier.training


def test_examples_of_a_network_with_batch_statistics_are_each_pictures_own() -> None:
    training = trainer(changing())
    images, labels = first_batch(training)
    whole, half = (
        with_adversarial_share(
            training, images[:count], labels[:count], share=1.0, norm="linf", epsilon=0.1
        )
        for count in (BATCH, BATCH // 2)
    )
    assert_close(whole[: BATCH // 2], half, LOGIT)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"adversarial_share is .*between 0 and 1"):
        jacobian_regularisation(trainer(linear()), **ball(), adversarial_share=share)


def test_a_negative_number_of_projections_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="number of projections is -1"):
        jacobian_regularisation(trainer(linear()), **ball(), projections=-1)
