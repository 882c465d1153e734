"""Networks that benchmarks harden: one folder each, trained once, interrupted and resumed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.publishing import ROOT, commit
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target
from training.attacks.norms import Norm
from training.datasets import NamedPictures
from training.hardening.command import RECORD, WEIGHTS, harden
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.request import HardeningRequest
from training.targets import LoadedTarget
from training.targets.checkpoints import load_weights, read_checkpoint

WORK: Final = ROOT / "runs" / "hardening"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network of a table: the method that makes it, and from which one it starts.

    Args:
        method: a registered hardening method.
        recipe: rates and lengths.
        options: of the method.
        start: name of the row whose network it starts from; None takes the classifier as built.
        epsilon: of the training, where it is not that of the table.
        mixed_precision: cross-entropies in bfloat16.
    """

    method: str
    recipe: Recipe
    options: MethodOptions = field(default_factory=MethodOptions)
    start: str | None = None
    epsilon: float | None = None
    mixed_precision: bool = False


def hardened(
    name: str,
    rows: dict[str, Row],
    build: Callable[[], Target],
    training: NamedPictures,
    folder: Path,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
) -> Target:
    """The network of row `name`, trained now or before, in `folder`.

    One that was trained by another recipe is refused.

    Args:
        name: of the row.
        rows: of the table.
        build: the classifier before any training here.
        training: pictures to train and validate on.
        folder: holds a folder per row.
        norm: of the ball.
        epsilon: of the table.
        seed: of every random choice.
    """
    row, target, out = rows[name], build(), folder / name
    if row.start is not None:
        target = hardened(
            row.start, rows, build, training, folder, norm=norm, epsilon=epsilon, seed=seed
        )
    if not _origin(out).exists():
        write_json(_origin(out), {"commit": commit()})
    harden(
        HardeningRequest(
            loaded=LoadedTarget(target, name, None, len(training.pictures.class_names)),
            training=training,
            test=None,
            method=row.method,
            norm=norm,
            epsilon=epsilon if row.epsilon is None else row.epsilon,
            recipe=row.recipe,
            options=row.options,
            mixed_precision=row.mixed_precision,
            seed=seed,
        ),
        out,
    )
    return _with_weights(build(), out / WEIGHTS)


def origin(folder: Path) -> dict[str, Any]:
    """What made the network in `folder`: method, recipe, seconds, commit."""
    record = read_json(folder / RECORD)
    return {
        "request": record["request"],
        "kept_epoch": record["kept_epoch"],
        "epochs": record["epochs"],
        "seconds": record["seconds"],
        "hardware": record["hardware"],
        "threads": record["threads"],
        "versions": record["versions"],
        "commit": read_json(_origin(folder))["commit"],
    }


def _origin(out: Path) -> Path:
    """Beside the folder, because it is written before the training begins."""
    return out.with_name(f"{out.name}.origin.json")


def _with_weights(target: Target, path: Path) -> Target:
    load_weights(target.classifier, read_checkpoint(path), str(path))
    return target
