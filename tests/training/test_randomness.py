"""Generators that are a function of seed, purpose and number."""

import torch

from training.randomness import generator_for


def test_the_same_choice_is_drawn_alike_and_every_other_differently() -> None:
    draws = {
        (seed, purpose, number): torch.rand(4, generator=generator_for(seed, purpose, number))
        for seed in (0, 1)
        for purpose in ("bank", "epoch")
        for number in (0, 1, 10)
    }
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(draws) == 12
    for choice, draw in draws.items():
        assert torch.equal(torch.rand(4, generator=generator_for(*choice)), draw)


def test_the_global_generator_plays_no_part() -> None:
    before = torch.get_rng_state()
    first = torch.rand(2, generator=generator_for(3, "x"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(torch.rand(2, generator=generator_for(3, "x")), first)


def test_seeds_mean_the_same_on_every_machine_and_version() -> None:
    """SHA-256 of `0|bank|0`, its first seven bytes: not Python's salted hash."""
    assert generator_for(0, "bank").initial_seed() == 0xA58200F850B748
