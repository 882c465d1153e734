"""Reading `metrics.json` back: what a result file must hold before a report is made of it."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prn_guard.contract import Fraction, Positive
from prn_guard.errors import ArtifactError
from prn_guard.files import read_json
from training.attacks.norms import Norm


def read_metrics(path: Path) -> dict[str, Any]:
    """Read the file of figures that `evaluate` wrote.

    Raises:
        ArtifactError: it is missing, damaged, or lacks a figure.
    """
    metrics = read_json(path)
    try:
        _Metrics.model_validate(metrics)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "its root"
        raise ArtifactError(
            f"{path} does not hold the figures of this version: {first['msg']} at {place}. "
            "Evaluate the guard anew."
        ) from error
    checked: dict[str, Any] = metrics
    return checked


class Part(BaseModel):
    """A part of a result file: values of the stated types, and finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class MeasuredFigure(Part):
    """A fraction with its sample size and interval."""

    value: float
    n: Annotated[int, Field(gt=0)]
    low: float
    high: float


class MeasuredUnder(Part):
    """Figures on perturbed pictures."""

    undefended_perturbed_accuracy: MeasuredFigure
    guarded_perturbed_accuracy: MeasuredFigure
    rectified_perturbed_accuracy: MeasuredFigure
    undefended_fooling_rate: MeasuredFigure
    guarded_fooling_rate: MeasuredFigure
    perturbed_flagged_rate: MeasuredFigure


class _Adaptive(MeasuredUnder):
    surrogate: str


class _Elsewhere(MeasuredUnder):
    file: str
    number: int
    linf: float


class _Protocol(Part):
    pictures: int
    prn_gain: MeasuredFigure
    prn_restoration: MeasuredFigure
    detection_rate: MeasuredFigure
    defense_rate: MeasuredFigure
    undefended_rate: MeasuredFigure


class _Detection(Part):
    one: Fraction = Field(alias="0.01")
    five: Fraction = Field(alias="0.05")


class _Roc(Part):
    false_positive_rate: Annotated[list[Fraction], Field(min_length=1)]
    true_positive_rate: Annotated[list[Fraction], Field(min_length=1)]
    area: Fraction
    detection_at: _Detection


class _Point(Part):
    epsilon: Positive
    undefended: MeasuredFigure
    guarded: MeasuredFigure
    adaptive: MeasuredFigure | None = None


class _Threat(Part):
    norm: Norm
    epsilon: Positive
    universal: str
    held_out: str
    adaptive: str
    delivery: str


class _Setting(Part):
    target: str
    test_pictures: int
    versions: dict[str, str]
    seconds: float
    hardware: str


class _Request(Part):
    rectifier: str
    detector: str
    images: str
    seed: int


class _Metrics(MeasuredUnder):
    clean_accuracy: MeasuredFigure
    guarded_clean_accuracy: MeasuredFigure
    rectified_clean_accuracy: MeasuredFigure
    false_positive_rate: MeasuredFigure
    adaptive_accuracy: MeasuredFigure
    protocol_a: _Protocol
    protocol_b: _Protocol
    adaptive: Annotated[list[_Adaptive], Field(min_length=1)]
    held_out: Annotated[list[MeasuredUnder], Field(min_length=1)]
    elsewhere: list[_Elsewhere]
    roc: _Roc
    fooling_against_epsilon: Annotated[list[_Point], Field(min_length=1)]
    threat_model: _Threat
    setting: _Setting
    request: _Request
