"""Run by several processes at once: trains a network and writes what each of them ends with."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from tests.training.hardening.networks import changing, recipe, state, trainer, unchanging
from training.checkpoint import save_tensors
from training.hardening.job import HardeningJob, MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.registry import harden
from training.processes import processes

RATES = recipe(learning_rate=0.05, epochs=2)
CASES: dict[str, tuple[str, MethodOptions, Recipe]] = {
    "plain": ("plain", MethodOptions(), RATES),
    "clipped": ("plain", MethodOptions(), dataclasses.replace(RATES, largest_gradient=0.05)),
    "fgsm": ("fgsm", MethodOptions(), RATES),
    "uat": ("uat", MethodOptions(), RATES),
    "uat-low-cost": ("uat-low-cost", MethodOptions(rule="sgd"), RATES),
    "jacobian": ("jacobian", MethodOptions(projections=0), RATES),
    "jacobian-post": ("jacobian-post", MethodOptions(projections=0), RATES),
    "batch statistics": ("plain", MethodOptions(), RATES),
}


def main(folder: Path) -> None:
    """Train every case and write weights, buffers and state."""
    torch.set_num_threads(1)
    with processes(torch.device("cpu")) as together:
        said = [together.leader_says(answer=answer) for answer in (together.leads, False)]
        said.append(together.leader_says(answer=not together.leads))
        (folder / f"said-{together.rank}.json").write_text(json.dumps(said))
        for case, (method, options, rates) in CASES.items():
            target = changing() if case == "batch statistics" else unchanging()
            training = trainer(target, rates=rates, processes=together)
            harden(
                method, HardeningJob(trainer=training, norm="linf", epsilon=0.1, options=options)
            )
            kept = {f"kept {name}": value for name, value in training.state.items()}
            path = folder / f"{case}-{together.rank}-of-{together.count}.safetensors"
            save_tensors(path, {**state(target), **kept}, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
