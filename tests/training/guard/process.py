"""Run by several processes at once: trains a rectifier and writes what each of them ends with."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from tests.training.small import SHAPE, pictures, trained_target
from training.checkpoint import save_tensors
from training.guard.fit_rectifier import fit_rectifier
from training.guard.recipe import Recipe
from training.processes import processes

PAPER = Recipe(epochs=3, learning_rate=0.01, decay=0.9, batch_size=16)
OURS = replace(
    PAPER, decay=None, mirrored=True, augmented=True, largest_gradient=5e-4,
    clean_divergence=0.5, clean_pixels=2.0, checkpoint_every=5,
)  # fmt: skip
CASES = {"paper": PAPER, "ours": OURS}


def main(folder: Path) -> None:
    """Train by every recipe; the leading process writes checkpoints."""
    torch.set_num_threads(1)
    bank = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).sign() * 0.15
    with processes(torch.device("cpu")) as together:
        for case, recipe in CASES.items():
            rectifier = build_rectifier(
                RectifierSpec(channels=1, width=6, blocks=1),
                generator=torch.Generator().manual_seed(0),
            )
            losses: list[float] = []
            fit_rectifier(
                rectifier, trained_target(), pictures(64, seed=5), bank,
                norm="linf", epsilon=0.15, recipe=recipe, seed=0, together=together,
                checkpoint=folder / f"state-{case}-of-{together.count}.safetensors",
                on_iteration=lambda _, __, loss, told=losses: told.append(loss),
            )  # fmt: skip
            path = folder / f"{case}-{together.rank}-of-{together.count}.safetensors"
            told = {"losses": torch.tensor(losses, dtype=torch.float64)}
            save_tensors(path, {**rectifier.state_dict(), **told}, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
