"""Generators for every random choice, derived from one seed and the name of the choice.

Because a generator is a function of `(seed, purpose, number)`, a run that is interrupted and
resumed at any step draws exactly what the uninterrupted one would have drawn.
"""

import hashlib

import torch


def generator_for(seed: int, purpose: str, number: int = 0) -> torch.Generator:
    """A CPU generator for choice `number` of `purpose` under `seed`."""
    digest = hashlib.sha256(f"{seed}|{purpose}|{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
