"""The table of costs is what was measured, and the network is left as it was."""

import copy

import torch

from benchmarks.hardening_cost import in_turn, render, seconds_of
from prn_guard.nn.target import state_digest
from tests.training.small import pictures, trained_target


def test_ratios_are_those_within_a_round() -> None:
    text = render(
        {
            "classifier": "a network",
            "batch_size": 10,
            "steps": 2,
            "hardware": "a CPU",
            "threads": 1,
            "commit": "abc",
            "versions": {"torch": "2"},
            "seconds": {
                "plain": [1.0, 2.0, 4.0],
                "uat": [2.0, 4.4, 8.4],
                "jacobian": [5.0, 6.0, 20.0],
            },
        }
    )
    assert "| plain | 10 | 1 |  |" in text
    assert "| uat | 5 | 2.10 (2.00-2.20) | at most 2.2 |" in text
    assert "| jacobian | 3 | 5.00 (3.00-5.00) |  |" in text
    assert "medians over 3 rounds of 2 steps" in text


def test_every_method_begins_a_round_in_turn() -> None:
    assert [in_turn(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert in_turn(["a", "b", "c"], 1) == ["b", "c", "a"]


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    target = copy.deepcopy(trained_target())
    before = state_digest(target.classifier)
    assert seconds_of("uat", target, pictures(16), 4) > 0
    assert state_digest(target.classifier) == before
