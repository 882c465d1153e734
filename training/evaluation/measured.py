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


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Figure(_Part):
    value: float
    n: Annotated[int, Field(gt=0)]
    low: float
    high: float


class _Under(_Part):
    undefended_perturbed_accuracy: _Figure
    guarded_perturbed_accuracy: _Figure
    rectified_perturbed_accuracy: _Figure
    undefended_fooling_rate: _Figure
    guarded_fooling_rate: _Figure
    perturbed_flagged_rate: _Figure


class _Adaptive(_Under):
    surrogate: str


class _Elsewhere(_Under):
    file: str
    number: int
    linf: float


class _Protocol(_Part):
    pictures: int
    prn_gain: _Figure
    prn_restoration: _Figure
    detection_rate: _Figure
    defense_rate: _Figure
    undefended_rate: _Figure


class _Detection(_Part):
    one: Fraction = Field(alias="0.01")
    five: Fraction = Field(alias="0.05")


class _Roc(_Part):
    false_positive_rate: Annotated[list[Fraction], Field(min_length=1)]
    true_positive_rate: Annotated[list[Fraction], Field(min_length=1)]
    area: Fraction
    detection_at: _Detection


class _Point(_Part):
    epsilon: Positive
    undefended: _Figure
    guarded: _Figure
    adaptive: _Figure | None = None


class _Threat(_Part):
    norm: Norm
    epsilon: Positive
    universal: str
    held_out: str
    adaptive: str
    delivery: str


class _Setting(_Part):
    target: str
    test_pictures: int
    versions: dict[str, str]
    seconds: float
    hardware: str


class _Request(_Part):
    rectifier: str
    detector: str
    images: str
    seed: int


class _Metrics(_Under):
    clean_accuracy: _Figure
    guarded_clean_accuracy: _Figure
    rectified_clean_accuracy: _Figure
    false_positive_rate: _Figure
    adaptive_accuracy: _Figure
    protocol_a: _Protocol
    protocol_b: _Protocol
    adaptive: Annotated[list[_Adaptive], Field(min_length=1)]
    held_out: Annotated[list[_Under], Field(min_length=1)]
    elsewhere: list[_Elsewhere]
    roc: _Roc
    fooling_against_epsilon: Annotated[list[_Point], Field(min_length=1)]
    threat_model: _Threat
    setting: _Setting
    request: _Request
