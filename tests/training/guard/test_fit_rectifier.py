"""Training leaves the target alone, can be interrupted anywhere, and follows equation 2."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from prn_guard.errors import DataError
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import state_digest
from tests.reference import losses
from tests.tolerances import LOSS, UNIT_VECTOR, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.attacks.fooling import fooling_rate, predict
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.datasets import ArrayPictures, Pictures
from training.guard.aim import Aim
from training.guard.fit_rectifier import OnIteration, fit_rectifier
from training.guard.held_perturbations import HELD, HeldPerturbations
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_training import RectifierTraining

SPEC = RectifierSpec(channels=1, width=6, blocks=1)
RECIPE = Recipe(epochs=3, learning_rate=0.01, decay=0.5, batch_size=16, checkpoint_every=3)
LARGEST = 5e-4
"""Below most gradients of this training."""
EVERYTHING = replace(
    RECIPE, decay=None, mirrored=True, augmented=True, largest_gradient=LARGEST,
    clean_divergence=0.5, pixels=2.0, detection=1.0, adversarial_share=0.4, precision="bfloat16",
)  # fmt: skip


class _InterruptedError(Exception):
    pass


def _rectifier(*, seed: int = 0) -> nn.Module:
    return build_rectifier(SPEC, generator=torch.Generator().manual_seed(seed))


def _perturbations() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).sign() * 0.1


def _fit(
    rectifier: nn.Module,
    *,
    known: Pictures | None = None,
    perturbations: Tensor | None = None,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_iteration: OnIteration | None = None,
) -> nn.Module:
    """Fit it, and return all that was trained."""
    joint = JointDetector(*SHAPE[1:]) if recipe.detection else None
    training = RectifierTraining(rectifier, trained_target(), recipe=recipe, joint=joint)
    fit_rectifier(
        training,
        pictures(64, seed=5) if known is None else known,
        _perturbations() if perturbations is None else perturbations,
        norm="linf",
        epsilon=0.15,
        seed=seed,
        checkpoint=checkpoint,
        on_iteration=on_iteration,
    )
    return training.trained


def _same(one: nn.Module, other: nn.Module) -> bool:
    return state_digest(one) == state_digest(other)


def test_the_targets_weights_and_batch_statistics_are_bit_identical_after_training() -> None:
    target, rectifier = trained_target(), _rectifier()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    digest, start = state_digest(target), state_digest(rectifier)
    target.train()
    _fit(rectifier)
    assert state_digest(rectifier) != start
    assert state_digest(target) == digest
    assert any("running_var" in name for name in before)
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(value.requires_grad or value.grad is not None for value in target.parameters())
    assert not any(module.training for module in (*target.modules(), *rectifier.modules()))


@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("stop_after", [3, 5, 11])
def test_interrupted_training_ends_with_bit_identical_weights(
    tmp_path: Path, stop_after: int, recipe: Recipe
) -> None:
    def interrupt(done: int, _: int, __: float) -> None:
        if done == stop_after:
            raise _InterruptedError

    stopped = _rectifier()
    straight = _fit(_rectifier(), recipe=recipe)
    path, seen = tmp_path / "rectifier.safetensors", []
    with pytest.raises(_InterruptedError):
        _fit(stopped, recipe=recipe, checkpoint=path, on_iteration=interrupt)
    resumed = _fit(
        _rectifier(seed=9),
        recipe=recipe,
        checkpoint=path,
        on_iteration=lambda done, total, _: seen.append((done, total)),
    )
    first = stop_after // 3 * 3 + 1
    assert seen == [(done, 12) for done in range(first, 13)]
    assert _same(resumed, straight)
    assert not _same(stopped, straight[0])


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    path, told = tmp_path / "rectifier.safetensors", []
    first, second, recipe = _rectifier(), _rectifier(seed=9), replace(RECIPE, checkpoint_every=5)
    _fit(first, recipe=recipe, checkpoint=path)
    _fit(second, recipe=recipe, checkpoint=path, on_iteration=lambda done, _, __: told.append(done))
    assert told == []
    assert _same(first, second)
    assert not second.training


def test_a_seed_repeats_bit_by_bit_and_another_does_not() -> None:
    fitted = [_rectifier() for _ in range(3)]
    for rectifier, seed in zip(fitted, (1, 1, 2), strict=True):
        _fit(rectifier, seed=seed)
    assert _same(fitted[0], fitted[1])
    assert not _same(fitted[0], fitted[2])


def _mislabelled() -> tuple[ArrayPictures, ArrayPictures]:
    """The same pictures with the right labels and with others throughout."""
    known = pictures(64, seed=5)
    images = (everything(known) * 255).round().to(torch.uint8)
    return known, ArrayPictures(images, (known.labels + 1) % 3, known.class_names)


def test_the_loss_is_against_the_targets_own_clean_labels() -> None:
    """At first the rectifier is the identity, so that the first loss can be computed by hand."""
    recipe = Recipe(epochs=1, learning_rate=1e-4, decay=1.0, batch_size=64)
    known, mislabelled = _mislabelled()
    told: list[float] = []
    fitted = []
    for given in (known, mislabelled):
        fitted.append(_rectifier())
        _fit(
            fitted[-1],
            known=given,
            perturbations=torch.zeros(1, *SHAPE),
            recipe=recipe,
            on_iteration=lambda _, __, loss: told.append(loss),
        )
    with torch.no_grad():
        logits = trained_target()(everything(known)).double().numpy()
    oracle = losses.cross_entropy(logits, logits.argmax(axis=1)).mean()
    against_truth = losses.cross_entropy(logits, mislabelled.labels).mean()
    assert_close(told, [oracle, oracle], LOSS)
    assert against_truth > oracle + 1
    assert _same(fitted[0], fitted[1])


def test_the_rectifier_learns_to_take_a_perturbation_off_again() -> None:
    target, known, unseen = trained_target(), pictures(300, seed=5), pictures(200, seed=8)
    uap = stochastic_gradient_uap(
        target, known, norm="linf", epsilon=0.15, generator=torch.Generator().manual_seed(0)
    )
    rectifier = _rectifier()
    recipe = Recipe(epochs=8, learning_rate=0.01, decay=0.5, batch_size=32)
    _fit(rectifier, known=known, perturbations=uap[None], recipe=recipe)

    def guarded(images: Tensor) -> Tensor:
        answer: Tensor = target(rectifier(images))
        return answer

    clean = predict(target, unseen)
    assert fooling_rate(clean, predict(target, unseen, uap)) > 0.5
    assert fooling_rate(clean, predict(guarded, unseen, uap)) < 0.15
    assert fooling_rate(clean, predict(guarded, unseen)) < 0.15


class _Recorder:
    """Pictures that remember which of them were asked for, and whether crops were drawn."""

    def __init__(self, known: Pictures) -> None:
        self._known = known
        self.shape, self.labels, self.class_names = known.shape, known.labels, known.class_names
        self.device = known.device
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._known)

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        assert crops is not None, "training must draw where larger pictures are cut"
        self.asked.append(indices.tolist())
        return self._known.batch(indices, crops=crops)


def test_an_epoch_visits_every_picture_once_in_an_order_of_its_own() -> None:
    recorder = _Recorder(pictures(64, seed=5))
    _fit(_rectifier(), known=recorder)
    epochs = [sum(recorder.asked[start : start + 4], []) for start in (0, 4, 8)]  # noqa: RUF017
    assert [sorted(epoch) for epoch in epochs] == [list(range(64))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.fixture
def steps() -> Iterator[list[tuple[float, tuple[float, float]]]]:
    """Rate and betas of every optimiser step that is taken."""
    seen: list[tuple[float, tuple[float, float]]] = []

    def watch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        assert isinstance(optimizer, torch.optim.Adam)
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))

    handle: RemovableHandle = register_optimizer_step_pre_hook(watch)
    yield seen
    handle.remove()


@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
def test_every_step_is_adams_at_the_rate_of_the_recipe(
    steps: list[tuple[float, tuple[float, float]]], recipe: Recipe
) -> None:
    _fit(_rectifier(), recipe=recipe)
    assert [rate for rate, _ in steps] == [recipe.rate(number, 12) for number in range(12)]
    assert {betas for _, betas in steps} == {(0.9, 0.999)}


def test_gradients_are_clipped_to_the_norm_of_the_recipe() -> None:
    norms: list[float] = []

    def watch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        weights = optimizer.param_groups[0]["params"]
        norms.append(float(torch.stack([weight.grad.norm() for weight in weights]).norm()))

    handle: RemovableHandle = register_optimizer_step_pre_hook(watch)
    for largest in (None, LARGEST):
        _fit(_rectifier(), recipe=replace(RECIPE, epochs=1, largest_gradient=largest))
    handle.remove()
    assert max(norms[:4]) > 2 * LARGEST
    assert_close(max(norms[4:]), LARGEST, UNIT_VECTOR)


def test_a_loss_that_is_not_finite_ends_the_training_and_is_not_kept(tmp_path: Path) -> None:
    path, rectifier = tmp_path / "rectifier.safetensors", _rectifier()
    with torch.no_grad():
        next(rectifier.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="loss is nan at iteration 1"):
        _fit(rectifier, checkpoint=path)
    assert not path.exists()


def test_what_is_held_climbs_along_the_gradient_of_the_mini_batch_that_was_under_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aimed: list[tuple[Tensor, Tensor]] = []
    climbed: list[tuple[int, Tensor, Tensor]] = []
    step, ascend = RectifierTraining.step, HeldPerturbations.ascend

    def stepped(training: RectifierTraining, *given: Any, aim: Aim, **rest: Any) -> float:
        value = step(training, *given, aim=aim, **rest)
        held = aim.perturbation
        assert held.grad is not None
        assert aim.evades == (len(aimed) % 2 == 1)
        aimed.append((held.detach().clone(), held.grad.clone()))
        return value

    def climbs(held: HeldPerturbations, iteration: int, gradient: Tensor) -> None:
        climbed.append((iteration, held.state[0, iteration % HELD].clone(), gradient.clone()))
        ascend(held, iteration, gradient)

    monkeypatch.setattr(RectifierTraining, "step", stepped)
    monkeypatch.setattr(HeldPerturbations, "ascend", climbs)
    _fit(_rectifier(), recipe=EVERYTHING)
    assert [iteration for iteration, _, __ in climbed] == list(range(12))
    for (_, at, along), (held, gradient) in zip(climbed, aimed, strict=True):
        assert torch.equal(at, held)
        assert torch.equal(along, gradient)
        assert gradient.any()
