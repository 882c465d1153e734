"""The short informed attacker: crafted, repeatable, kept."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL
from training.attacks.norms import norm_of
from training.datasets import Pictures
from training.evaluation import adaptive
from training.evaluation.adaptive import InformedAttacker, adaptive_perturbation
from training.evaluation.outcomes import answers
from training.guard.folder import read_record
from training.guard.surrogates import SURROGATES


@pytest.mark.parametrize("name", list(SURROGATES))
@pytest.mark.usefixtures("_short_attacks")
def test_crafting_through_a_surrogate(
    guarded: GuardedClassifier, test_set: Pictures, name: str
) -> None:
    def craft(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return adaptive_perturbation(
            guarded, name, test_set, norm="linf", epsilon=0.15, generator=generator
        )

    perturbation = craft(0)
    assert torch.equal(perturbation, craft(0))
    assert not torch.equal(perturbation, craft(1))
    assert float(norm_of(perturbation, "linf")) <= 0.15 + BALL.absolute
    noise = 0.15 * torch.sign(torch.randn(test_set.shape, generator=torch.Generator()))
    attacked, noisy = answers(guarded, test_set, perturbation), answers(guarded, test_set, noise)
    hit = attacked.right(attacked.guarded).mean()
    assert hit < noisy.right(noisy.guarded).mean() - 0.2


def test_an_impossible_ball_is_refused(guarded: GuardedClassifier, test_set: Pictures) -> None:
    with pytest.raises(InvalidArgumentError, match="epsilon"):
        adaptive_perturbation(
            guarded, "rectifier", test_set, norm="linf", epsilon=1.5, generator=torch.Generator()
        )


@pytest.mark.parametrize("same", [True, False])
def test_only_attacks_of_the_same_request_are_kept(
    guarded: GuardedClassifier,
    guard_folder: Path,
    test_set: Pictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    same: bool,
) -> None:
    crafted: list[float] = []
    seeds: list[int] = []

    def craft(*_: object, epsilon: float, generator: torch.Generator, **__: object) -> Tensor:
        crafted.append(epsilon)
        seeds.append(generator.initial_seed())
        return torch.full((1, 12, 12), epsilon)

    monkeypatch.setattr(adaptive, "adaptive_perturbation", craft)

    def attacker(number: int) -> InformedAttacker:
        record, path = read_record(guard_folder), tmp_path / "adaptive.safetensors"
        return InformedAttacker(
            guarded, record, test_set, path=path, request={"number": number}, seed=0
        )

    first = attacker(0)
    first.perturbation("rectifier", 0)
    assert torch.equal(first.perturbation("rectifier", 0), torch.full((1, 12, 12), 0.15))
    first.perturbation("rectifier", 1)
    first.perturbation("rectifier", 0, scale=2.0)
    assert crafted == [0.15, 0.15, 0.3]
    # The larger ball is attacked from the first start, not from one of its own.
    assert seeds[2] == seeds[0] != seeds[1]
    attacker(0 if same else 1).perturbation("rectifier", 1)
    assert crafted == [0.15, 0.15, 0.3, *([] if same else [0.15])]
