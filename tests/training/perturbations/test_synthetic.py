"""Synthetic perturbations against Algorithm 1 in a plain loop, and where each form holds."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from tests.reference import synthetic_walk as reference
from tests.tolerances import BALL, CLIPPED_NORM, CONE_RESIDUAL, WALK, assert_close
from training.attacks.norms import Norm, norm_of
from training.perturbations.synthetic import (
    MEMBERS_COMBINED,
    TRIAL_WALKS,
    accepted,
    clipped_combinations,
    l2_threshold,
    random_walks,
    synthesise,
)

EPSILON = 0.1
SHAPE = (3, 6, 8)


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _dense(members: int = 6) -> Tensor:
    """Normal values scaled so that the largest lies on the bound: a sum looks like its terms."""
    bank = torch.randn(members, *SHAPE, generator=_seed(1))
    return bank / norm_of(bank, "linf")[:, None, None, None] * EPSILON


def _corners(members: int = 6) -> Tensor:
    """Every value on the bound, as sign-gradient attacks leave them."""
    return torch.randn(members, *SHAPE, generator=_seed(2)).sign() * EPSILON


def _between(members: int = 8) -> Tensor:
    """Half of the values on the bound: a sum of members must be clipped to be as dense."""
    return (torch.randn(members, *SHAPE, generator=_seed(13)) * 1.5).clamp(-1, 1) * EPSILON


def _flat(stack: Tensor) -> np.ndarray:
    return stack.flatten(1).double().numpy()


def _bound(norm: Norm) -> float:
    return EPSILON if norm == "linf" else 1.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bank", [_dense(), _corners(), _dense(1)])
def test_walks_are_those_of_the_plain_loop(bank: Tensor, norm: Norm) -> None:
    generator = _seed(3)

    def draw(going: int) -> tuple[Tensor, Tensor]:
        lengths = torch.rand(going, 1, generator=generator)
        return lengths, torch.randint(len(bank), (going,), generator=generator)

    epsilon = _bound(norm)
    oracle = reference.walks(_flat(bank), 25, norm=norm, epsilon=epsilon, draw=draw)
    result = random_walks(bank, 25, norm=norm, epsilon=epsilon, generator=_seed(3))
    assert result.shape == (25, *SHAPE)
    assert_close(result.flatten(1), oracle, WALK)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_walks_end_on_the_bound_inside_the_cone_of_the_bank(norm: Norm) -> None:
    bank, epsilon = _dense(), _bound(norm)
    walks = random_walks(bank, 40, norm=norm, epsilon=epsilon, generator=_seed(4))
    assert_close(norm_of(walks, norm), np.full(40, epsilon), BALL)
    assert float(norm_of(walks, norm).max()) <= epsilon + BALL.absolute
    for walk in _flat(walks):
        _, residual = nnls(_flat(bank).T, walk)
        assert_close(residual, 0.0, CONE_RESIDUAL)
        _, mirrored = nnls(_flat(bank).T, -walk)
        assert mirrored > 0.1 * np.linalg.norm(walk)


def test_walks_differ_from_one_another_and_repeat_with_the_seed() -> None:
    first = random_walks(_dense(), 20, norm="linf", epsilon=EPSILON, generator=_seed(5))
    again = random_walks(_dense(), 20, norm="linf", epsilon=EPSILON, generator=_seed(5))
    assert torch.equal(first, again)
    assert len(torch.unique(first.flatten(1), dim=0)) == 20


def test_a_linf_walk_is_kept_from_the_banks_mean_l2_norm_on() -> None:
    bank = _dense()
    mean = float(np.linalg.norm(_flat(bank), axis=1).mean())
    shares = torch.tensor([0.9, 1 - 1e-5, 1.0, 1.1])
    walks = bank[:1] / norm_of(bank[:1], "l2") * mean * shares[:, None, None, None]
    assert accepted(walks, bank, norm="linf").tolist() == [False, False, True, True]
    assert accepted(walks, bank, norm="l2").tolist() == [True] * 4
    many = random_walks(bank, 200, norm="linf", epsilon=EPSILON, generator=_seed(6))
    oracle = [reference.is_accepted(walk, _flat(bank), norm="linf") for walk in _flat(many)]
    assert accepted(many, bank, norm="linf").tolist() == oracle
    assert 20 < sum(oracle) < 180


def test_a_corner_bank_itself_is_dense_enough_but_none_of_its_walks_is() -> None:
    bank = _corners()
    assert accepted(bank, bank, norm="linf").all()
    walks = random_walks(bank, 2400, norm="linf", epsilon=EPSILON, generator=_seed(7))
    assert not accepted(walks, bank, norm="linf").any()


def test_a_dense_bank_is_extended_by_algorithm_1() -> None:
    bank = _dense()
    made = synthesise(bank, 60, norm="linf", epsilon=EPSILON, generator=_seed(8))
    trial = random_walks(bank, TRIAL_WALKS, norm="linf", epsilon=EPSILON, generator=_seed(8))
    share = float(accepted(trial, bank, norm="linf").double().mean())
    assert (made.form, made.walk_acceptance) == ("algorithm-1", share)
    assert made.perturbations.shape == (60, *SHAPE)
    assert accepted(made.perturbations, bank, norm="linf").all()
    assert_close(norm_of(made.perturbations, "linf"), np.full(60, EPSILON), BALL)
    assert 60 <= made.accepted < made.tried
    assert max(nnls(_flat(bank).T, row)[1] for row in _flat(made.perturbations)) < 1e-5


def test_a_corner_bank_is_extended_by_clipped_combinations() -> None:
    bank = _corners()
    made = synthesise(bank, 60, norm="linf", epsilon=EPSILON, generator=_seed(9))
    assert (made.form, made.walk_acceptance) == ("clipped", 0.0)
    assert accepted(made.perturbations, bank, norm="linf").all()
    assert float(norm_of(made.perturbations, "linf").max()) <= EPSILON + BALL.absolute
    assert made.accepted <= made.tried
    assert len(torch.unique(made.perturbations.flatten(1).sign(), dim=0)) > 10


def test_in_l2_every_walk_is_kept_whatever_the_bank() -> None:
    for bank in (_dense(), _corners()):
        made = synthesise(bank, 30, norm="l2", epsilon=0.7, generator=_seed(10))
        assert (made.form, made.tried, made.accepted) == ("algorithm-1", 200, 200)
        assert len(made.perturbations) == 30
        assert_close(norm_of(made.perturbations, "l2"), np.full(30, 0.7), BALL)


def test_a_clipped_combination_leaves_the_cone_by_the_clipping_alone() -> None:
    bank = _between()
    made = clipped_combinations(bank, 30, norm="linf", epsilon=EPSILON, generator=_seed(11))
    assert float(norm_of(made, "linf").max()) <= EPSILON + BALL.absolute
    for values in _flat(made):
        clipped = np.abs(values) > EPSILON * (1 - 1e-5)
        assert 0 < clipped.sum() < clipped.size
        weights, residual = nnls(_flat(bank).T[~clipped], values[~clipped])
        assert_close(residual, 0.0, CONE_RESIDUAL)
        assert (weights > 1e-4).sum() <= MEMBERS_COMBINED
        beyond = (weights @ _flat(bank))[clipped]
        assert (np.abs(beyond) >= EPSILON * (1 - 1e-4)).all()
        assert (np.sign(beyond) == np.sign(values[clipped])).all()


def test_a_clipped_combination_is_scaled_no_further_than_to_the_wanted_norm() -> None:
    bank = _between()
    made = clipped_combinations(bank, 30, norm="linf", epsilon=EPSILON, generator=_seed(12))
    wanted = float(np.linalg.norm(_flat(bank), axis=1).mean())
    assert_close(l2_threshold(bank), wanted, CLIPPED_NORM)
    assert_close(norm_of(made, "l2"), np.full(30, wanted), CLIPPED_NORM)
    assert accepted(made, bank, norm="linf").all()


def test_nothing_is_made_when_nothing_is_wanted() -> None:
    made = synthesise(_dense(), 0, norm="linf", epsilon=EPSILON, generator=_seed())
    assert made.perturbations.shape == (0, *SHAPE)
    assert made.tried == made.accepted == 0


def test_a_bank_outside_the_ball_ends_in_an_error_after_bounded_tries() -> None:
    with pytest.raises(DataError, match=r"Only 0 of 8000 .* 10 were wanted"):
        synthesise(_corners() * 2, 10, norm="linf", epsilon=EPSILON, generator=_seed())


@pytest.mark.parametrize(("members", "count"), [(0, 5), (3, -1)])
def test_counts_that_make_no_sense_are_refused(members: int, count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"a bank of {members} and a count of {count}"):
        synthesise(_dense()[:members], count, norm="l2", epsilon=1.0, generator=_seed())
