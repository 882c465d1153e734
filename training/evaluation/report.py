"""`report`: one self-contained page about a guard and how it was measured.

No figure is computed here: all come from the record of the fit and the result files of the
evaluation. What flatters never stands alone: beside the held-out perturbations stands the attacker
who knows the guard, beside the 50/50 mix what it hides.
"""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from prn_guard.errors import ArtifactError
from prn_guard.files import sha256_of, write_bytes
from training.checkpoint import load_tensors
from training.evaluation.charts import DARK, LIGHT, fooling_chart, most_fooling, roc_chart
from training.evaluation.evaluate import METRICS
from training.evaluation.examples import EXAMPLES
from training.evaluation.measured import read_metrics
from training.evaluation.pixels import (
    LARGEST_SIDE,
    SHOWN_WHOLE,
    eye_factor,
    for_the_eye,
    png_uri,
)
from training.evaluation.report_extras import extra_sections
from training.evaluation.tables import groups_of, interval, percent
from training.guard import folder as layout
from training.guard.folder import GuardRecord, load_bank, read_record

TEMPLATE = "report.html.j2"
STACKS: Final = ("clean", "perturbed", "rectified", "clean_rectified")
COLUMNS: Final = (
    "true_label",
    "clean_label",
    "bare_label",
    "guarded_label",
    "clean_score",
    "score",
)
NEAR_PERFECT = 0.99
"""An area from which on a curve on linear axes shows nothing but its corner."""


def write_report(folder: Path, evaluation: Path, out: Path) -> dict[str, Any]:
    """Write the report of a guard as one HTML file that needs no other.

    Args:
        folder: what `fit` wrote.
        evaluation: what `evaluate` wrote of that guard; results of `transfer` and of the informed
            attacker are shown where they lie there too.
        out: the HTML file.

    Returns:
        The figures of `metrics.json`.

    Raises:
        ArtifactError: a file of either folder is missing or damaged, or the evaluation is of
            another guard.
        StorageError: the report could not be written; an old one stays as it was.
    """
    record = read_record(folder)
    metrics = read_metrics(evaluation / METRICS)
    extras = extra_sections(evaluation, _check_same_guard(folder, evaluation, metrics))
    examples = _read_examples(evaluation / EXAMPLES, record.input.shape)
    bank = load_bank(folder).summary()
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            metrics=metrics,
            record=record,
            groups=groups_of(metrics),
            worst=min(
                metrics["adaptive"], key=lambda row: _value(row, "guarded_perturbed_accuracy")
            ),
            most_fooling=most_fooling(metrics),
            weak_points=_weak_points(metrics),
            understated=_understated(metrics),
            near_perfect=metrics["roc"]["area"] >= NEAR_PERFECT,
            ball=_ball(record),
            size_of=lambda epsilon: _size(record, epsilon),
            bank=bank | {"test_fooling_rates": record.bank.get("test_fooling_rates", [])},
            charts={
                "roc": _both_schemes(roc_chart(metrics, LIGHT), roc_chart(metrics, DARK)),
                "fooling": _both_schemes(
                    fooling_chart(metrics, LIGHT), fooling_chart(metrics, DARK)
                ),
            },
            **_rows(metrics),
            **_pictures(examples, record),
            **_patterns(examples["perturbations"]),
            reduced=max(record.input.shape[1:]) > LARGEST_SIDE,
            pixelated=max(record.input.shape[1:]) < LARGEST_SIDE // 2,
            **extras,
        )
    )
    write_bytes(out, page.encode())
    return metrics


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "share": lambda value: f"{100 * value:.2f}",
        "rounded": lambda figure: f"{100 * figure['value']:.1f}",
        "points": lambda difference: f"{100 * abs(difference):.2f}",
        "short": lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
    }
    return environment


def _check_same_guard(folder: Path, evaluation: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the guard's rectifier and detector, which are those that were measured."""
    digests = {}
    for name, file in (("rectifier", layout.RECTIFIER), ("detector", layout.DETECTOR)):
        path = folder / file
        if not path.is_file():
            raise ArtifactError(f"{path} is missing. Fit the guard anew.")
        digests[name] = sha256_of(path)
        if metrics["request"][name] != digests[name]:
            raise ArtifactError(
                f"{evaluation / METRICS} was measured with another {name} than that of {folder}. "
                "Give the folder of the same guard, or evaluate this one."
            )
    return digests


def _read_examples(path: Path, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The example pictures, their count and shapes checked."""
    tensors, _ = load_tensors(path)
    missing = {*STACKS, *COLUMNS, "perturbations"} - tensors.keys()
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(sorted(missing))}. Evaluate the guard anew.")
    count = len(tensors["true_label"])
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(STACKS, (count, *shape))
    expected |= dict.fromkeys(COLUMNS, (count,))
    expected["perturbations"] = (len(tensors["perturbations"]), *shape)
    for name, wanted in expected.items():
        if tuple(tensors[name].shape) != wanted or 0 in wanted:
            raise ArtifactError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}; expected {wanted}, not "
                "empty. Evaluate the guard anew."
            )
    return tensors


def _pictures(examples: Mapping[str, Tensor], record: GuardRecord) -> dict[str, Any]:
    """The picture grid; one factor for everything removed, so that it can be compared."""
    removed = examples["perturbed"] - examples["rectified"]
    removed_clean = examples["clean"] - examples["clean_rectified"]
    count = len(removed)
    factor = eye_factor(torch.cat([removed, removed_clean]), share=SHOWN_WHOLE)
    shown = {name: examples[name] for name in ("clean", "perturbed", "rectified")}
    shown["removed"] = for_the_eye(removed, factor)
    shown["removed_clean"] = for_the_eye(removed_clean, factor)
    return {
        "removed_factor": factor,
        "examples": [
            {
                "pictures": {name: png_uri(stack[number]) for name, stack in shown.items()},
                "true": _name(record, examples["true_label"][number]),
                "clean": _name(record, examples["clean_label"][number]),
                "bare": _name(record, examples["bare_label"][number]),
                "guarded": _name(record, examples["guarded_label"][number]),
                "score": float(examples["score"][number]),
                "clean_score": float(examples["clean_score"][number]),
            }
            for number in range(count)
        ],
    }


def _patterns(perturbations: Tensor) -> dict[str, Any]:
    factor = eye_factor(perturbations)
    return {
        "pattern_factor": factor,
        "patterns": [png_uri(for_the_eye(one, factor)) for one in perturbations],
    }


def _rows(metrics: Mapping[str, Any]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Named rows of the tables that go into one perturbation each."""
    return {
        "adaptive_rows": [(row["surrogate"], row) for row in metrics["adaptive"]],
        "held_out_rows": [
            *((f"#{number + 1}", row) for number, row in enumerate(metrics["held_out"])),
            ("mean", metrics),
        ],
        "elsewhere_rows": [
            (f"{row['file']} #{row['number']} (linf {255 * row['linf']:.3g}/255)", row)
            for row in metrics["elsewhere"]
        ],
    }


def _weak_points(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Where crafting through the guard fools less than patterns that do not know it.

    There the adaptive attack was too weak, and says nothing for the guard.
    """
    return [
        point
        for point in metrics["fooling_against_epsilon"]
        if point.get("adaptive") and _value(point, "adaptive") < _value(point, "guarded")
    ]


def _understated(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The curve's point at the training epsilon, where another surrogate fools more than it."""
    most = _value(most_fooling(metrics), "guarded_fooling_rate")
    for point in metrics["fooling_against_epsilon"]:
        here = math.isclose(point["epsilon"], metrics["threat_model"]["epsilon"])
        if here and point.get("adaptive") and _value(point, "adaptive") < most:
            return dict(point)
    return None


def _ball(record: GuardRecord) -> str:
    return f"{record.norm}, epsilon {_size(record, record.epsilon)}"


def _size(record: GuardRecord, epsilon: float) -> str:
    """An epsilon on [0, 1] pixels and on the 0-255 scale."""
    if record.norm == "linf":
        return f"{epsilon:.4g} ({255 * epsilon:.4g}/255)"
    mean_square = 255 * epsilon / math.sqrt(math.prod(record.input.shape))
    return f"{epsilon:.4g} (root mean square {mean_square:.4g}/255)"


def _both_schemes(light: bytes, dark: bytes) -> dict[str, str]:
    return {
        name: f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
        for name, content in (("light", light), ("dark", dark))
    }


def _name(record: GuardRecord, label: Tensor) -> str:
    """The class name; a target may know more classes than the pictures name."""
    index = int(label)
    known = 0 <= index < len(record.class_names)
    return record.class_names[index] if known else f"class {index}"


def _value(row: Mapping[str, Any], name: str) -> float:
    return float(row[name]["value"])
