"""The suite: what it is made of, and how its entries are named."""

import pytest

from prn_guard.errors import InvalidArgumentError
from training.evaluation.informed.suite import (
    ASCENTS,
    ON_THE_BARE_TARGET,
    SUITE,
    entries_named,
)
from training.guard.surrogates import ALL_SURROGATES, SURROGATES


def test_names_tell_entries_apart_and_surrogates_exist() -> None:
    every = [*SUITE, *ON_THE_BARE_TARGET]
    assert len({entry.name for entry in every}) == len(every)
    assert {entry.through for entry in every} <= ALL_SURROGATES.keys()


def test_at_least_ten_ascents_of_every_demanded_kind() -> None:
    assert sum(entry.method in ASCENTS for entry in SUITE) >= 10
    assert {entry.through for entry in SUITE} >= SURROGATES.keys()
    assert {entry.method for entry in SUITE} >= {"sign-pgd", "adam", "sga", "singular-vector"}
    assert sum(entry.target is not None for entry in SUITE) >= 2
    assert len({entry.evasion for entry in SUITE if entry.evasion is not None}) >= 2
    assert any(entry.warm for entry in SUITE)
    # An attacker who evades the detector attacks the target that it then reaches.
    assert {one.through for one in SUITE if one.evasion is not None} == {"bare target"}


def test_entries_are_chosen_by_name_in_the_suites_order() -> None:
    assert entries_named(None) == SUITE
    found = entries_named(["rectifier", "expected guard"])
    assert [entry.name for entry in found] == ["expected guard", "rectifier"]


@pytest.mark.parametrize("names", [[], ["expected guard", "magic"]])
def test_unknown_names_are_refused_with_those_there_are(names: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"There is no attack .*choose of"):
        entries_named(names)
