"""Universal adversarial training against Algorithms 3 and 4, written anew in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.reference.hardening import Array, Labels, SoftmaxRegression, ascent, perturbed
from tests.tolerances import BALL, WEIGHT_STEPS, assert_close
from tests.training.hardening.networks import ball, changing, trainer
from tests.training.hardening.walk import walk
from tests.training.small import VALUES, everything
from training.attacks.norms import Norm, norm_of
from training.hardening.job import Rule
from training.hardening.low_cost_universal_adversarial import (
    low_cost_universal_adversarial_training,
)
from training.hardening.trainer import Trainer
from training.hardening.universal_adversarial import (
    PERTURBATION,
    ascended,
    universal_adversarial_training,
)

EPSILON = 0.1
RULES: tuple[Rule, ...] = ("fgsm", "sgd", "adam")
Train = Callable[..., None]
BOTH = pytest.mark.parametrize(
    "train", [universal_adversarial_training, low_cost_universal_adversarial_training]
)


class _Ascent:
    """The perturbation of the reference: rules of section 4, steps in epsilons."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.perturbation = np.zeros(VALUES)
        self.first, self.second = np.zeros(VALUES), np.zeros(VALUES)
        self.step = 0

    def take(self, gradient: Array) -> None:
        self.step += 1
        if self.rule == "fgsm":
            move = EPSILON * np.sign(gradient)
        elif self.rule == "sgd":
            move = 0.1 * EPSILON * gradient / np.abs(gradient).max()
        else:
            self.first = 0.9 * self.first + 0.1 * gradient
            self.second = 0.999 * self.second + 0.001 * gradient**2
            mean = self.first / (1 - 0.9**self.step)
            move = 0.1 * EPSILON * mean / np.sqrt(self.second / (1 - 0.999**self.step))
        self.perturbation = np.clip(self.perturbation + move, -EPSILON, EPSILON)


@pytest.mark.parametrize("rule", RULES)
def test_alternating_is_algorithm_3(rule: Rule) -> None:
    kept = _Ascent(rule)

    def descend(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        return model.gradients(perturbed(x, kept.perturbation), labels)

    def ascend(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> None:
        kept.take(ascent(model, x, labels, kept.perturbation))

    def method(training: Trainer) -> None:
        universal_adversarial_training(training, norm="linf", epsilon=EPSILON, rule=rule)

    found = walk(method, descend, ascend).training.state[PERTURBATION]
    assert_close(found.flatten(), kept.perturbation, WEIGHT_STEPS)


@pytest.mark.parametrize("rule", RULES)
def test_low_cost_is_algorithm_4_with_both_gradients_at_the_same_weights(rule: Rule) -> None:
    kept = _Ascent(rule)

    def both(model: SoftmaxRegression, x: Array, labels: Labels, _: int) -> list[Array]:
        gradients = model.gradients(perturbed(x, kept.perturbation), labels)
        kept.take(ascent(model, x, labels, kept.perturbation))
        return gradients

    def method(training: Trainer) -> None:
        low_cost_universal_adversarial_training(training, norm="linf", epsilon=EPSILON, rule=rule)

    found = walk(method, both).training.state[PERTURBATION]
    assert_close(found.flatten(), kept.perturbation, WEIGHT_STEPS)


@BOTH
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rule", RULES)
def test_the_perturbation_moves_and_never_leaves_the_ball(
    train: Train, norm: Norm, rule: Rule
) -> None:
    lengths: list[float] = []

    def look(*_: object) -> None:
        lengths.append(float(norm_of(training.state[PERTURBATION].detach(), norm)))

    training = trainer(changing(), on_step=look)
    train(training, norm=norm, epsilon=EPSILON, rule=rule)
    assert len(lengths) == 6
    assert min(lengths) > 0
    assert max(lengths) <= EPSILON + BALL.absolute
    if rule == "fgsm":
        assert_close(lengths[-1], EPSILON, BALL)


@BOTH
def test_the_first_pass_sees_clean_pictures_and_later_ones_the_perturbation(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = trainer(changing())
    seen: list[torch.Tensor] = []
    logits = Trainer.logits

    def record(self: Trainer, images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach().clone())
        return logits(self, images)

    monkeypatch.setattr(Trainer, "logits", record)
    train(training, **ball())
    clean = everything(training.pictures)

    def is_clean(batch: torch.Tensor) -> bool:
        return all((one == clean).flatten(1).all(dim=1).any() for one in batch)

    assert [is_clean(batch) for batch in seen] == [True] + [False] * 5


@pytest.mark.parametrize(
    ("train", "passes"),
    [(universal_adversarial_training, 2), (low_cost_universal_adversarial_training, 1)],
)
def test_low_cost_takes_one_backward_pass_a_step_and_alternating_two(
    train: Train, passes: int
) -> None:
    target = changing()
    forward: list[bool] = []
    backward: list[torch.Tensor] = []

    def note(_module: object, _inputs: object, output: torch.Tensor) -> None:
        forward.append(output.requires_grad)
        if output.requires_grad:
            output.register_hook(backward.append)

    target.classifier.register_forward_hook(note)
    training = trainer(target)
    forward.clear()
    train(training, **ball())
    assert len(backward) == 6 * passes
    assert forward == [True] * 6 * passes


@BOTH
def test_an_unknown_rule_is_refused(train: Train) -> None:
    with pytest.raises(
        InvalidArgumentError, match="rule is 'pgd'; expected one of fgsm, sgd, adam"
    ):
        train(trainer(changing()), **ball(), rule="pgd")


def test_the_step_of_fgsm_is_epsilon_long_from_anywhere() -> None:
    training = trainer(changing())
    training.state[PERTURBATION] = torch.full(training.pictures.shape, 0.05)
    gradient = torch.ones(training.pictures.shape)
    gradient[0, 0] = -1
    moved = ascended(training, gradient, rule="fgsm", norm="linf", epsilon=EPSILON)
    assert_close(moved[0, 1:], np.full((11, 12), EPSILON), BALL)
    assert_close(moved[0, 0], np.full(12, 0.05 - EPSILON), BALL)
