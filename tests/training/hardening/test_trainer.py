"""Steps, penalties, rates and what is left alone, in the loop that all methods share."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.target import Target
from tests.tolerances import LOGIT, PENALISED_STEP, WEIGHT_STEPS, assert_close
from tests.training.hardening.networks import (
    BATCH,
    NETWORKS,
    Make,
    ball,
    changing,
    equal_states,
    first_batch,
    linear,
    mean_of,
    recipe,
    state,
    trainer,
    unchanging,
    vector,
)
from tests.training.hardening.walk import RATE, batches_of, model_of
from tests.training.small import everything, pictures
from training.hardening.input_gradient import squared_input_gradients
from training.hardening.jacobian import jacobian_regularisation, penalty_along
from training.hardening.jacobian_post_processing import jacobian_post_processing
from training.hardening.plain import fine_tune
from training.hardening.trainer import Penalty, Trainer, Weigh


def _root(total: Tensor, _: int) -> Tensor:
    return 0.2 * total.sqrt()


def _penalised_step(
    make: Make,
    weigh: Weigh,
    *,
    copied: bool = False,
    penalty: Penalty | None = None,
    **options: Any,
) -> Tensor:
    """Weights and buffers after one step."""
    training = trainer(make(), **options)
    images, labels = first_batch(training)
    training.descend_penalised(
        images.clone() if copied else images,
        labels,
        images,
        penalty or penalty_along(training, 0),
        weigh,
    )
    return vector(training.target)


@NETWORKS
@pytest.mark.parametrize("weigh", [mean_of, _root])
@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_a_penalty_in_parts_is_the_penalty_of_the_whole(
    make: Make, weigh: Weigh, size: int
) -> None:
    assert_close(
        _penalised_step(make, weigh, micro_batch=size), _penalised_step(make, weigh), PENALISED_STEP
    )


@pytest.mark.parametrize("weigh", [mean_of, _root])
@pytest.mark.parametrize("penalty", [None, squared_input_gradients])
def test_one_pass_for_both_terms_is_as_good_as_two(weigh: Weigh, penalty: Penalty | None) -> None:
    passes: list[int] = []

    def counted() -> Target:
        target = unchanging()
        target.classifier.register_forward_hook(lambda *_: passes.append(1))
        return target

    shared = _penalised_step(counted, weigh, penalty=penalty)
    in_one = len(passes)
    apart = _penalised_step(counted, weigh, copied=True, penalty=penalty)
    assert len(passes) == 2 * in_one + 1
    assert_close(shared, apart, PENALISED_STEP)


@NETWORKS
@pytest.mark.parametrize("weigh", [mean_of, _root])
def test_a_penalised_step_is_that_of_the_written_out_loss(make: Make, weigh: Weigh) -> None:
    """In float64, with the penalty by `torch.func` and the cross-entropy in training mode."""
    training = trainer(make())
    images, labels = first_batch(training)
    copy = make().double()
    copy.classifier.load_state_dict(training.target.classifier.state_dict())
    copy.requires_grad_()
    weights = dict(copy.named_parameters())

    def answer(image: Tensor) -> Tensor:
        buffers = dict(copy.named_buffers())
        return torch.func.functional_call(copy, weights | buffers, (image[None],))[0]

    copy.classifier.eval()
    jacobians = [torch.func.jacrev(answer)(image) for image in images.double()]
    penalty = weigh(torch.stack(jacobians).square().sum(), len(images))
    copy.classifier.train()
    if make is changing:
        copy.classifier[3].p = 0.0  # in float64 other places would be dropped
        training.target.classifier[3].p = 0.0
    loss = nn.functional.cross_entropy(copy(images.double()), labels) + penalty
    gradients = torch.autograd.grad(loss, list(weights.values()))
    oracle = [w.detach() - 0.1 * g for w, g in zip(weights.values(), gradients, strict=True)]
    training.descend_penalised(images, labels, images, penalty_along(training, 0), weigh)
    for found, expected in zip(training.target.parameters(), oracle, strict=True):
        assert_close(found.detach(), expected, PENALISED_STEP)


def test_a_penalty_is_each_pictures_own_and_of_the_network_as_deployed() -> None:
    training = trainer(changing())
    images, labels = first_batch(training)
    exact = penalty_along(training, 0)
    values: list[Tensor] = []

    def penalty(watched: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        assert not training.target.classifier.training
        found = exact(watched, logits, labels)
        values.append(found.detach())
        return found

    before = state(training.target)
    for seed in (1, 2):
        mixed = torch.cat([images[:1], everything(pictures(BATCH - 1, seed=seed))])
        training._add_gradient(mixed, labels, penalty, mean_of, BATCH)
        assert equal_states(before, state(training.target))  # no batch statistics were taken
        assert training.target.classifier.training
    assert_close(values[0][:1], values[1][:1], LOGIT)
    assert not torch.equal(values[0][1:], values[1][1:])


@pytest.mark.parametrize("drops", [(), (0.5,), (0.25, 0.5, 0.75)])
def test_the_rate_falls_tenfold_after_each_share(drops: tuple[float, ...]) -> None:
    rates = recipe(epochs=4, drops=drops, learning_rate=0.08)
    training = trainer(linear(), rates=rates)
    found = []
    for images, labels in training.minibatches():
        training.descend(nn.functional.cross_entropy(training.logits(images), labels))
        found.append(training._optimizer.param_groups[0]["lr"])
    oracle = {
        (): [0.08] * 12,
        (0.5,): [0.08] * 6 + [0.008] * 6,
        (0.25, 0.5, 0.75): [0.08] * 3 + [0.008] * 3 + [0.0008] * 3 + [0.00008] * 3,
    }[drops]
    np.testing.assert_allclose(found, oracle, rtol=1e-12)


@pytest.mark.parametrize("epochs", [1, 3, 65, 90])
def test_a_drop_at_a_whole_epoch_is_at_its_first_step(epochs: int) -> None:
    rates = recipe(epochs=epochs, drops=tuple(k / epochs for k in range(1, epochs)))
    for per_epoch in (1, 7, 351):
        for epoch in range(epochs):
            begin = rates.rate(epoch * per_epoch / (epochs * per_epoch))
            assert begin == 0.1 * 0.1**epoch
            assert rates.rate(((epoch + 1) * per_epoch - 1) / (epochs * per_epoch)) == begin


@pytest.mark.parametrize("largest", [0.01, 0.1, 1e6])
def test_gradients_are_clipped_to_the_length_that_is_allowed(largest: float) -> None:
    target = linear()
    model = model_of(target)
    fine_tune(trainer(target, rates=recipe(epochs=1, learning_rate=RATE, largest_gradient=largest)))
    for images, labels, _ in batches_of():
        gradients = model.gradients(images, labels)
        length = np.sqrt(sum((one**2).sum() for one in gradients))
        model.step([one * min(1.0, largest / length) for one in gradients])
    assert_close(next(iter(target.parameters())).detach(), model.matrix, WEIGHT_STEPS)


def test_weight_decay_pulls_at_all_weights() -> None:
    target = linear()
    model = model_of(target)
    fine_tune(trainer(target, rates=recipe(epochs=1, learning_rate=RATE, weight_decay=0.3)))
    for images, labels, _ in batches_of():
        by_matrix, by_bias = model.gradients(images, labels)
        model.step([by_matrix + 0.3 * model.matrix, by_bias + 0.3 * model.bias])
    assert_close(next(iter(target.parameters())).detach(), model.matrix, WEIGHT_STEPS)
    assert_close(list(target.parameters())[1].detach(), model.bias, WEIGHT_STEPS)


def test_adam_takes_its_textbook_steps() -> None:
    target = linear()
    model = model_of(target)
    fine_tune(trainer(target, rates=recipe(epochs=1, learning_rate=0.01, optimizer="adam")))
    first, second = np.zeros_like(model.matrix), np.zeros_like(model.matrix)
    bias = [np.zeros_like(model.bias) for _ in range(2)]
    for step, (images, labels, _) in enumerate(batches_of(), start=1):
        by_matrix, by_bias = model.gradients(images, labels)
        first, second = 0.9 * first + 0.1 * by_matrix, 0.999 * second + 0.001 * by_matrix**2
        bias = [0.9 * bias[0] + 0.1 * by_bias, 0.999 * bias[1] + 0.001 * by_bias**2]
        for value, moments in ((model.matrix, (first, second)), (model.bias, bias)):
            deviation = np.sqrt(moments[1] / (1 - 0.999**step)) + 1e-8
            np.subtract(value, 0.01 * moments[0] / (1 - 0.9**step) / deviation, out=value)
    assert_close(next(iter(target.parameters())).detach(), model.matrix, WEIGHT_STEPS)


def test_each_epoch_shows_pictures_once_and_in_another_order() -> None:
    of = pictures(20, seed=6)  # four of them are left over in each epoch
    training = trainer(linear(), of)
    seen = [images.clone() for images, _ in training.minibatches()]
    assert len(seen) == 4
    whole = everything(of)
    places = [
        [int((one == whole).flatten(1).all(dim=1).nonzero()) for one in torch.cat(seen[k : k + 2])]
        for k in (0, 2)
    ]
    assert all(len(set(one)) == 16 for one in places)
    assert places[0] != places[1]


def test_labels_belong_to_their_pictures() -> None:
    of = pictures(24, seed=6)
    whole = everything(of)
    for images, labels in trainer(linear(), of).minibatches():
        for image, label in zip(images, labels, strict=True):
            assert of.labels[int((image == whole).flatten(1).all(dim=1).nonzero())] == label


def test_afterwards_the_network_is_frozen_and_in_evaluation_mode() -> None:
    target = changing()
    fine_tune(trainer(target))
    assert not any(one.training for one in target.modules())
    assert not any(weight.requires_grad for weight in target.parameters())


def test_validation_is_after_every_epoch_of_the_network_as_deployed_and_may_end_it() -> None:
    target = changing()
    asked: list[int] = []

    def validate(epoch: int) -> bool:
        assert not target.classifier.training
        asked.append(epoch)
        return epoch == 2

    training = trainer(target, rates=recipe(epochs=5), validate=validate)
    fine_tune(training)
    assert asked == [1, 2]
    assert training.step == 6


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(DataError, match=r"There are 7 pictures .* mini-batch of 8"):
        trainer(linear(), pictures(7))


@pytest.mark.parametrize("method", ["plain", "mean", "root"])
def test_a_loss_that_is_not_finite_ends_the_training_with_the_weights_as_they_were(
    method: str,
) -> None:
    target = unchanging()
    with torch.no_grad():
        target.classifier[3].weight.fill_(1e30)
        target.classifier[3].bias[0] = float("inf")
    before = state(target)
    training = trainer(target)
    run = {
        "plain": fine_tune,
        "mean": partial(jacobian_regularisation, **ball()),
        "root": partial(jacobian_post_processing, **ball()),
    }[method]
    with pytest.raises(DataError, match=r"The loss is (nan|inf) at step 1.*learning rate \(0\.1\)"):
        run(training)
    assert equal_states(before, state(target))


def test_what_was_trained_is_left_frozen_and_without_gradients() -> None:
    target = changing()
    fine_tune(trainer(target))
    assert not any(one.requires_grad or one.grad is not None for one in target.parameters())
    assert not any(module.training for module in target.modules())


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before() -> None:
    found = []
    for seed in (1, 2):
        target = changing()
        training = trainer(target, rates=recipe(augmentation="crop-flip"))
        torch.manual_seed(seed)
        torch.rand(seed)
        fine_tune(training)
        found.append(state(target))
    assert equal_states(*found)


def test_another_seed_is_another_training() -> None:
    found = []
    for seed in (1, 2):
        target = linear()
        fine_tune(Trainer(target, pictures(24, seed=6), recipe=recipe(), seed=seed))
        found.append(state(target))
    assert not equal_states(*found)
