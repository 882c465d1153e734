"""The trained generator: fooling, diverse, inside the ball, and nobody else's weights touched."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.target import state_digest
from tests.tolerances import BALL, CONVOLUTION, assert_close
from tests.training.small import CLASSES, SHAPE, pictures, trained_target
from training.attacks import generator as generator_module
from training.attacks.fooling import fooling_rate, predict
from training.attacks.generator import GENERATOR, generator_uap, generator_uaps, into_ball
from training.attacks.generator_network import GeneratorNetwork, draw_noise
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, norm_of, random_start

EPSILON = {"linf": 0.15, "l2": 1.8}


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(
    norm: Norm = "linf", *, count: int = 12, seed: int = 0, target_class: int | None = None,
    steps: int = 60,
) -> Tensor:  # fmt: skip
    return generator_uaps(
        trained_target(),
        pictures(200, seed=2),
        count,
        norm=norm,
        epsilon=EPSILON[norm],
        generator=_seed(seed),
        target_class=target_class,
        steps=steps,
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_drawn_fools_on_unseen_pictures_where_noise_does_not(norm: Norm) -> None:
    target, unseen = trained_target(), pictures(200, seed=3)
    clean = predict(target, unseen)

    def mean_fooling(stack: Tensor) -> float:
        return sum(fooling_rate(clean, predict(target, unseen, one)) for one in stack) / len(stack)

    noise = [
        random_start(SHAPE, norm, EPSILON[norm], generator=_seed(seed)).sign() for seed in range(12)
    ]
    strongest_noise = into_ball(1e6 * torch.stack(noise), norm, EPSILON[norm])
    assert mean_fooling(strongest_noise) < 0.1
    assert mean_fooling(_drawn(norm)) > 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_drawn_lies_inside_the_ball_and_fills_it(norm: Norm) -> None:
    lengths = norm_of(_drawn(norm, steps=5), norm)
    assert float(lengths.max()) <= EPSILON[norm] + BALL.absolute
    assert float(lengths.min()) > 0.5 * EPSILON[norm]
    if norm == "l2":
        assert_close(lengths, EPSILON[norm], BALL)


def _cosines(drawn: Tensor) -> Tensor:
    flat = nn.functional.normalize(drawn.flatten(1), dim=1)
    rows, columns = torch.triu_indices(len(flat), len(flat), offset=1)
    return (flat @ flat.T)[rows, columns].abs()


def test_different_noise_gives_different_perturbations(monkeypatch: pytest.MonkeyPatch) -> None:
    diverse = _cosines(_drawn(count=8))
    assert float(diverse.max()) < 0.97
    assert float(diverse.mean()) < 0.7
    monkeypatch.setattr(generator_module, "REPULSION", 0.0)
    assert float(_cosines(_drawn(count=8)).mean()) > diverse.mean() + 0.02


def test_a_targeted_generator_reaches_its_class() -> None:
    unseen = pictures(200, seed=3)
    for target_class in range(CLASSES):
        drawn = _drawn(count=4, target_class=target_class)
        for one in drawn:
            arrived = predict(trained_target(), unseen, one) == target_class
            assert float(arrived.double().mean()) > 0.6


def test_the_single_form_is_the_best_of_those_drawn() -> None:
    arguments = {"norm": "linf", "epsilon": 0.15, "steps": 10}
    crafting = pictures(150, seed=2)
    clean = predict(trained_target(), crafting)
    drawn = generator_uaps(trained_target(), crafting, 6, generator=_seed(), **arguments)
    single = generator_uap(trained_target(), crafting, candidates=6, generator=_seed(), **arguments)
    rates = [fooling_rate(clean, predict(trained_target(), crafting, one)) for one in drawn]
    assert torch.equal(single, drawn[rates.index(max(rates))])
    assert min(rates) < max(rates)


def test_a_seed_repeats_bit_by_bit_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn = [_drawn(count=2, seed=seed, steps=5) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_training_leaves_the_classifier_as_it_was() -> None:
    thawed = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2], CLASSES))
    trained = trained_target()
    digests = state_digest(thawed), state_digest(trained)
    for classifier in (thawed, trained):
        generator_uaps(
            classifier, pictures(50), 1, norm="linf", epsilon=0.1, generator=_seed(), steps=3
        )
    assert (state_digest(thawed), state_digest(trained)) == digests
    assert all(weight.grad is None for weight in thawed.parameters())


def test_no_batch_grows_with_the_crafting_set() -> None:
    largest = {}
    for count in (600, 1800):
        sizes = []

        def counting(images: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(len(images))
            return trained_target()(images)

        generator_uaps(
            counting, pictures(count), 2, norm="linf", epsilon=0.1, generator=_seed(), steps=2
        )
        largest[count] = max(sizes)
    assert largest[600] == largest[1800] == 500


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 224, 224), (3, 37, 21), (1, 5, 3)])
def test_any_size_of_picture_is_painted_to_its_edge(shape: tuple[int, int, int]) -> None:
    network = GeneratorNetwork(shape, generator=_seed(), width=8)
    noise = draw_noise(2, generator=_seed(1))
    painted = network(noise).detach()
    assert painted.shape == (2, *shape)
    spread = painted.flatten(2).std(dim=2)
    assert float(painted[..., -1, -1].abs().max()) > 0
    assert float(spread.min()) > 0
    assert_close(painted[:1], network(noise[:1]).detach(), CONVOLUTION)


def test_every_field_of_a_job_reaches_the_method() -> None:
    told: list[tuple[int, int]] = []
    job = AttackJob(
        classifier=trained_target(),
        pictures=pictures(60, seed=2),
        norm="l2",
        epsilon=1.0,
        generator=_seed(),
        steps=3,
        on_step=lambda done, total: told.append((done, total)),
    )
    plain = GENERATOR.craft(job)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (plain.shape, plain.requires_grad) == (SHAPE, False)
    for change in ({"target_class": 1}, {"loss": "cross_entropy"}, {"steps": 4}):
        other = GENERATOR.craft(replace(job, generator=_seed(), on_step=None, **change))
        assert not torch.equal(plain, other)
    assert torch.equal(plain, GENERATOR.craft(replace(job, generator=_seed(), on_step=None)))


@pytest.mark.parametrize(
    ("count", "steps", "target_class", "message"),
    [
        (0, 1, None, "count is 0 and steps 1"),
        (1, 0, None, "count is 1 and steps 0"),
        (1, 1, 3, "target_class is 3; expected 0 to 2"),
    ],
)
def test_what_makes_no_sense_is_refused(
    count: int, steps: int, target_class: int | None, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _drawn(count=count, steps=steps, target_class=target_class)
