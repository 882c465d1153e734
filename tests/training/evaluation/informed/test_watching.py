"""Looking at an ascent: when, what is counted, and what is kept."""

import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from tests.training.small import SHAPE
from training.datasets import Pictures
from training.evaluation.informed import watching
from training.evaluation.informed.watching import Watch, pictures_right
from training.evaluation.outcomes import answers


def test_pictures_are_counted_as_the_guard_answers_them(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    perturbation = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.2
    judged = answers(guarded, test_set, perturbation)
    assert pictures_right(guarded, test_set, perturbation) == judged.right(judged.guarded).sum()


def _watched(
    monkeypatch: pytest.MonkeyPatch,
    guarded: GuardedClassifier,
    test_set: Pictures,
    rounds: int,
    stride: int,
) -> Watch:
    """An ascent whose points are numbered; the guard is worst at those near the value 5."""

    def right(_: object, __: object, perturbation: Tensor) -> int:
        return min(20, int(abs(perturbation[0, 0, 0] - 5)))

    monkeypatch.setattr(watching, "pictures_right", right)
    watch = Watch(guarded, test_set, rounds=rounds, stride=stride)
    watch.look(torch.zeros(SHAPE))
    for step in range(rounds):
        assert not watch.until(torch.full((1, *SHAPE), float(step + 1)))
    return watch


@pytest.mark.parametrize(
    ("rounds", "stride", "steps"),
    [
        (1000, 1, [0, 50, 100, 200, 400, 700, 1000]),
        (62, 16, [0, 64, 112, 208, 400, 704, 992]),
        (7, 1, [0, 7]),
        (1300, 1, [0, 50, 100, 200, 400, 700, 1000, 1300]),
    ],
)
def test_looks_at_the_stated_steps_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
    guarded: GuardedClassifier,
    test_set: Pictures,
    rounds: int,
    stride: int,
    steps: list[int],
) -> None:
    watch = _watched(monkeypatch, guarded, test_set, rounds, stride)
    assert [look["step"] for look in watch.curve] == steps
    assert watch.curve[0]["guarded_accuracy"] == 5 / len(test_set)


def test_the_point_that_hurts_most_is_kept_and_the_later_of_equals(
    monkeypatch: pytest.MonkeyPatch, guarded: GuardedClassifier, test_set: Pictures
) -> None:
    worst_at_the_end = _watched(monkeypatch, guarded, test_set, 7, 1)
    assert float(worst_at_the_end.best.mean()) == 7.0
    equal = _watched(monkeypatch, guarded, test_set, 10, 1)
    assert float(equal.best.mean()) == 10.0
    worst_at_the_start = _watched(monkeypatch, guarded, test_set, 1000, 1)
    assert float(worst_at_the_start.best.mean()) == 0.0


def test_an_ascent_that_was_not_looked_at_has_no_best(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    with pytest.raises(InvalidArgumentError, match="No point was looked at"):
        _ = Watch(guarded, test_set, rounds=1).best
