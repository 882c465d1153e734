"""Procedural textures as attacks: labels only, inside the ball, better than plain noise."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, assert_close
from tests.training.small import CLASSES, SHAPE, pictures, trained_target
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.gabor import GABOR
from training.attacks.job import AttackJob, Method
from training.attacks.norms import Norm, norm_of
from training.attacks.perlin import PERLIN
from training.attacks.procedural import on_sphere
from training.attacks.selection import SAMPLE

both = pytest.mark.parametrize("method", [PERLIN, GABOR], ids=["perlin", "gabor"])


def _labels_only() -> Classifier:
    """The trained target, answering one-hot labels that know nothing of gradients."""
    target = trained_target()

    def answer(images: Tensor) -> Tensor:
        labels = target(images).argmax(dim=1).numpy()
        return torch.eye(CLASSES)[torch.from_numpy(labels)]

    return answer


def _job(norm: Norm = "linf", *, seed: int = 0) -> AttackJob:
    return AttackJob(
        classifier=_labels_only(),
        pictures=pictures(150, seed=2),
        norm=norm,
        epsilon=0.2 if norm == "linf" else 2.4,
        generator=torch.Generator().manual_seed(seed),
        steps=40,
    )


@both
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_labels_are_enough_to_find_a_texture_that_fools_more_than_noise(
    method: Method, norm: Norm
) -> None:
    job, unseen = _job(norm), pictures(300, seed=3)
    crafted = method.craft(job)
    clean = predict(trained_target(), unseen)
    rates = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        noise = on_sphere(torch.randn(SHAPE, generator=generator), norm, job.epsilon)
        rates.append(fooling_rate(clean, predict(trained_target(), unseen, noise)))
    assert sum(rates) / 20 < 0.06
    assert fooling_rate(clean, predict(trained_target(), unseen, crafted)) > 0.2
    assert not crafted.requires_grad


@both
def test_linf_textures_lie_in_the_corners_and_l2_ones_on_the_sphere(method: Method) -> None:
    corner, scaled = method.craft(_job("linf")), method.craft(_job("l2"))
    assert set(corner.flatten().tolist()) == {float(corner.max()), -float(corner.max())}
    assert_close(norm_of(corner, "linf"), 0.2, BALL)
    assert_close(norm_of(scaled, "l2"), 2.4, BALL)


def test_a_zero_of_a_texture_still_lies_in_a_corner() -> None:
    assert on_sphere(torch.zeros(SHAPE), "linf", 0.1).unique().tolist() == [pytest.approx(0.1)]


@both
def test_more_tries_never_do_worse_on_the_pictures_asked_about(method: Method) -> None:
    job = _job()
    clean = predict(job.classifier, job.pictures)
    assert len(job.pictures) <= SAMPLE
    rates = [
        fooling_rate(
            clean,
            predict(job.classifier, job.pictures, method.craft(replace(_job(), steps=steps))),
        )
        for steps in (1, 5, 25)
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


@both
def test_a_target_class_is_what_tries_are_judged_by(method: Method) -> None:
    unseen = pictures(300, seed=3)
    arrived = torch.zeros(CLASSES, CLASSES)
    for wanted in range(CLASSES):
        crafted = method.craft(replace(_job(), target_class=wanted))
        answers = predict(trained_target(), unseen, crafted)
        arrived[wanted] = torch.bincount(answers, minlength=CLASSES) / len(answers)
    assert bool((arrived.diagonal() > arrived.mean(dim=0)).all())


@both
def test_a_seed_repeats_bit_by_bit_and_another_does_not(method: Method) -> None:
    crafted = [method.craft(_job(seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[0], crafted[2])


@both
def test_queries_are_bounded_and_every_try_is_told(method: Method) -> None:
    asked, told, labels_only = 0, [], _labels_only()

    def counting(images: Tensor) -> Tensor:
        nonlocal asked
        asked += len(images)
        return labels_only(images)

    method.craft(
        replace(
            _job(),
            classifier=counting,
            pictures=pictures(3 * SAMPLE),
            steps=3,
            on_step=lambda done, total: told.append((done, total)),
        )
    )
    assert asked == (1 + 3) * SAMPLE
    assert told == [(1, 3), (2, 3), (3, 3)]


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"target_class": 3}, "target_class is 3; expected 0 to 2"),
        ({"epsilon": 10.0}, "epsilon is 10 in linf"),
    ],
)
def test_what_makes_no_sense_is_refused(
    method: Method, change: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        method.craft(replace(_job(), **change))
