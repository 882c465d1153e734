"""Perturbations by every family of attack, crafted on the bare target and kept in one file.

A guard is fitted on perturbations of one family; what it does against those of others is measured
by leaving out whole families, since perturbations of one method resemble each other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.target import Target, state_digest
from prn_guard.version import __version__
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, check_ball
from training.attacks.registry import craft, method
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures, digest_of
from training.evaluation.survey import Entry, parse_entry
from training.progress import tracked
from training.randomness import generator_for

ENTRIES: Final = (
    Entry("sign-pgd"),
    Entry("sga"),
    Entry("iterative-deepfool"),
    Entry("singular-vector"),
    Entry("data-free"),
    Entry("generator"),
    Entry("perlin"),
    Entry("gabor"),
)
"""One method of each family, and both of the procedural ones; the other optimisers of stochastic
gradients are of the family that a guard is fitted on."""


def parse_families(text: str) -> tuple[Entry, ...]:
    """The entries of a list `METHOD[:LOSS][@STEPS],...`, as `generator@500,sga:logit_margin`.

    Raises:
        InvalidArgumentError: no such attack, loss or number of steps.
    """
    return tuple(_entry(part.strip()) for part in text.split(","))


def craft_families(
    target: Target,
    pictures: Pictures,
    entries: Sequence[Entry],
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    repeats: int = 1,
    path: Path,
) -> dict[str, Tensor]:
    """Craft `repeats` perturbations by each of `entries`, but not those that `path` holds already.

    The attacker knows the target, and no guard, so that one file serves every guard of a target.

    Args:
        target: attacked, on the device of `pictures`.
        pictures: the crafting set.
        entries: attacks, with loss and steps; no two of one name.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice.
        repeats: perturbations of each, of different seeds.
        path: safetensors file, written after each of them; one of another target, ball, seed or
            crafting set is replaced.

    Returns:
        stacks `(repeats, C, H, W)` on the CPU, by the entries' names.

    Raises:
        InvalidArgumentError: no such method, options it has no use for, two entries of one name, no
            repeats, or a ball that makes no sense.
        ArtifactError: `path` is damaged.
    """
    _check(entries, repeats)
    check_ball(norm, epsilon, pictures.shape)
    request = {
        "target": state_digest(target),
        "crafting pictures": digest_of(pictures),
        "norm": norm,
        "epsilon": epsilon,
        "seed": seed,
        "prn-guard": __version__,
    }
    made = _kept(path, request)
    for entry, number in _wanted(entries, repeats):
        key = _key(entry, number)
        if key in made:
            continue
        with tracked(f"Crafting by {entry.name}, {number + 1} of {repeats}") as track:
            job = AttackJob(
                classifier=target,
                pictures=pictures,
                norm=norm,
                epsilon=epsilon,
                generator=generator_for(seed, f"family {entry.name}", number),
                steps=entry.steps,
                loss=entry.loss,
                on_step=track,
            )
            made[key] = craft(entry.method, job).cpu()
        save_tensors(path, made, {"request": request})
    return {
        entry.name: torch.stack([made[_key(entry, number)] for number in range(repeats)])
        for entry in entries
    }


def _entry(text: str) -> Entry:
    name, at, steps = text.partition("@")
    entry = parse_entry(name)
    if not at:
        return entry
    if not steps.isdecimal() or int(steps) < 1:
        raise InvalidArgumentError(
            f"{text!r}: {steps!r} is no number of steps; expected METHOD@STEPS, as generator@500."
        )
    return dataclasses.replace(entry, steps=int(steps))


def _check(entries: Sequence[Entry], repeats: int) -> None:
    if repeats < 1:
        raise InvalidArgumentError(f"repeats is {repeats}; expected at least 1.")
    names = [entry.name for entry in entries]
    for entry in entries:
        method(entry.method)
        if names.count(entry.name) > 1:
            raise InvalidArgumentError(f"{entry.name} is listed twice; expected each family once.")


def _wanted(entries: Sequence[Entry], repeats: int) -> Iterator[tuple[Entry, int]]:
    return ((entry, number) for entry in entries for number in range(repeats))


def _key(entry: Entry, number: int) -> str:
    steps = "" if entry.steps is None else f"@{entry.steps}"
    return f"{entry.name}{steps}#{number}"


def _kept(path: Path, request: dict[str, Any]) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    tensors, metadata = load_tensors(path)
    return tensors if metadata.get("request") == request else {}
