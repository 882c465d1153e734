"""Sections of the report that only some evaluations have: transfer, and the informed attacker.

An evaluation folder may also hold `transfer.json` and `informed.json`. Of the first everything is
known here; of the second only that rows hold the figures of `training.evaluation.protocols.under`,
wherever they stand, and a threat model. The rest of it is shown as it is.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError

from prn_guard.contract import Positive
from prn_guard.errors import ArtifactError
from prn_guard.files import read_json
from training.attacks.norms import Norm
from training.evaluation.informed.attack import INFORMED
from training.evaluation.measured import MeasuredFigure, MeasuredUnder, Part
from training.evaluation.tables import interval, percent
from training.evaluation.transfer import TRANSFER
from training.evaluation.transfer_tables import (
    ALARM_COLUMNS,
    ROW_COLUMNS,
    alarm_rows,
    baseline_names,
    baseline_rows,
    perturbation_rows,
)

SHOWN_APART: Final = frozenset({"request", "threat_model", "setting"})
"""Parts of `informed.json` that are no results."""

NamedRow = tuple[str, Mapping[str, Any]]


def extra_sections(evaluation: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows of `transfer.json` and `informed.json`; None for a missing file.

    Args:
        evaluation: the folder that may hold them.
        digests: SHA-256 of the guard's rectifier and detector, by these names.

    Raises:
        ArtifactError: a file is damaged, or of another guard.
    """
    return {
        "transfer": _section(evaluation / TRANSFER, digests, _Transfer, _transfer),
        "informed": _section(evaluation / INFORMED, digests, _Result, _informed),
    }


def _section(
    path: Path,
    digests: Mapping[str, str],
    model: type[BaseModel],
    show: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content = read_json(path)
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its root"
        raise ArtifactError(
            f"{path} is not whole: {first['msg']} at {place}. Measure it anew."
        ) from error
    for name, digest in digests.items():
        if content["request"][name] != digest:
            raise ArtifactError(
                f"{path} was measured with another {name} than that of this guard. Measure it "
                "anew, or move it out of the folder."
            )
    return show(content) | {"threat": content["threat_model"]}


def _transfer(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n": content["setting"]["test_pictures"],
        "summary": content["summary"],
        "columns": [text for _, text in ROW_COLUMNS],
        "rows": perturbation_rows(content),
        "baseline_columns": baseline_names(content),
        "baseline_rows": baseline_rows(content),
        "alarm_columns": [text for _, text in ALARM_COLUMNS],
        "alarm_rows": alarm_rows(content),
    }


def _informed(content: Mapping[str, Any]) -> dict[str, Any]:
    results = {key: value for key, value in content.items() if key not in SHOWN_APART}
    # Written when an attack ends: until then it is that of an earlier run with fewer rows.
    results.pop("worst", None)
    rows = list(_rows_in(results, ""))
    if not rows:
        raise ArtifactError(f"{INFORMED} holds no row of figures. Measure it anew.")
    return {
        "rows": rows,
        "worst": min((row for _, row in rows), key=_guarded_accuracy),
        "details": list(_details(results, "")),
    }


def _rows_in(value: Any, name: str) -> Iterator[NamedRow]:
    """Every mapping with the figures of a perturbation, under its name or that of its place."""
    if isinstance(value, Mapping):
        if _is_row(value):
            through = value.get("surrogate", value.get("through"))
            called = str(value.get("name", name))
            aside = "" if through in {None, called} else f" (through {through})"
            yield called + aside, value
            return
        for key, inner in value.items():
            yield from _rows_in(inner, str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _rows_in(inner, f"{name} {number + 1}")


def _details(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """What is no row of a perturbation, as pairs of a dotted name and a text."""
    if isinstance(value, Mapping):
        if _is_figure(value):
            yield name, f"{percent(value)} % ({interval(value)})"
        elif not _is_row(value):
            for key, inner in value.items():
                yield from _details(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _details(inner, f"{name} {number + 1}")
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    elif isinstance(value, float):
        yield name, f"{value:.4g}"
    elif value is not None:
        yield name, str(value)


def _is_row(value: Mapping[str, Any]) -> bool:
    return MeasuredUnder.model_fields.keys() <= value.keys()


def _is_figure(value: Mapping[str, Any]) -> bool:
    return MeasuredFigure.model_fields.keys() <= value.keys()


def _guarded_accuracy(row: Mapping[str, Any]) -> float:
    return float(row["guarded_perturbed_accuracy"]["value"])


class _Threat(Part):
    norm: Norm
    epsilon: Positive


class _Request(Part):
    rectifier: str
    detector: str


class _Result(Part):
    request: _Request
    threat_model: _Threat


class _TransferThreat(_Threat):
    knows: str
    larger: str
    elsewhere: str
    baselines: str
    false_alarms: str


class _Clean(Part):
    clean_accuracy: MeasuredFigure
    guarded_clean_accuracy: MeasuredFigure
    false_positive_rate: MeasuredFigure


class _Row(MeasuredUnder):
    name: str
    family: str | None
    trained_family: bool | None
    norm: Norm
    factor: float
    perturbations: int
    linf: float
    l2: float
    relative_accuracy: MeasuredFigure


class _Baseline(Part):
    clean_accuracy: MeasuredFigure
    accuracy: dict[str, MeasuredFigure]


class _Summary(Part):
    groups: int
    mean_relative_accuracy: float | None
    least_relative_accuracy: float | None


class _Setting(Part):
    test_pictures: int


class _Transfer(_Result):
    threat_model: _TransferThreat
    clean: _Clean
    perturbations: Annotated[dict[str, _Row], Field(min_length=1)]
    baselines: Annotated[dict[str, _Baseline], Field(min_length=1)]
    false_alarms: Annotated[dict[str, _Clean], Field(min_length=1)]
    summary: _Summary
    setting: _Setting
