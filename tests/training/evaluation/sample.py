"""A guard folder and an evaluation made by hand, every figure of them different."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prn_guard.contract import InputSpec
from prn_guard.files import sha256_of, write_bytes, write_json
from prn_guard.nn.detector import DetectorSpec
from prn_guard.nn.rectifier import RectifierSpec
from training.checkpoint import save_tensors
from training.guard.folder import BANK, DETECTOR, RECTIFIER, GuardRecord, write_record
from training.perturbations.bank import Bank

THRESHOLD = 0.75
UNDER = (
    "undefended_perturbed_accuracy", "guarded_perturbed_accuracy", "rectified_perturbed_accuracy",
    "undefended_fooling_rate", "guarded_fooling_rate", "perturbed_flagged_rate",
)  # fmt: skip
ALONE = (
    "clean_accuracy", "guarded_clean_accuracy", "rectified_clean_accuracy", "false_positive_rate",
)  # fmt: skip
MIXED = ("prn_gain", "prn_restoration", "detection_rate", "defense_rate", "undefended_rate")
THREAT = {
    "norm": "linf",
    "epsilon": 0.125,
    "universal": "one pattern for all",
    "held_out": "knows the target",
    "adaptive": "knows the guard",
    "delivery": "8 bits",
}


def metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json`, measured on the guard of `folder`."""
    made = _figures()

    def under() -> dict[str, Any]:
        return {name: made() for name in UNDER}

    informed = [{"surrogate": name} | under() for name in ("rectifier", "soft gate")]
    worst = min(informed, key=lambda row: row["guarded_perturbed_accuracy"]["value"])
    epsilons = (0.0625, 0.125, 0.25)
    curve = [{"epsilon": one, "undefended": made(), "guarded": made()} for one in epsilons]
    for point in curve[1:]:
        point["adaptive"] = made()
    return {
        **{name: made() for name in ALONE},
        **under(),
        "adaptive_accuracy": worst["guarded_perturbed_accuracy"],
        "protocol_a": {"pictures": 900} | {name: made() for name in MIXED},
        "protocol_b": {"pictures": 800} | {name: made() for name in MIXED},
        "adaptive": informed,
        "held_out": [under(), under()],
        "elsewhere": [{"file": "other.npy", "number": 3, "linf": 0.05} | under()],
        "roc": {
            "false_positive_rate": [1.0, 0.5, 0.02, 0.0, 0.0],
            "true_positive_rate": [1.0, 1.0, 0.9, 0.4, 0.0],
            "area": 0.99321,
            "detection_at": {"0.01": 0.8127, "0.05": 0.9346},
        },
        "fooling_against_epsilon": curve,
        "threat_model": dict(THREAT),
        "setting": {
            "target": "net.py:net",
            "test_pictures": 1234,
            "versions": {"torch": "2.15"},
            "seconds": 4321.5,
            "hardware": "A processor, 2 CPUs",
        },
        "request": {
            "rectifier": sha256_of(folder / RECTIFIER),
            "detector": sha256_of(folder / DETECTOR),
            "images": "test.tar",
            "seed": 17,
        },
    }


def write_guard(
    folder: Path,
    *,
    shape: tuple[Literal[1, 3], int, int] = (1, 8, 8),
    names: tuple[str, ...] = ("cat", "dog"),
    relaxed: bool = False,
) -> None:
    """Write what a report reads of a guard folder."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(3)
    bank = Bank(
        perturbations=torch.randn(4, *shape, generator=generator).sign() / 8,
        fooling_rates=(0.8111, 0.8222, 0.8333, 0.8444),
        norm="linf", epsilon=0.125, candidates=77, rejected_fooling=52, rejected_cosine=21,
        relaxed=relaxed, held_out=2,
    )  # fmt: skip
    bank.save(folder / BANK)
    for name in (RECTIFIER, DETECTOR):
        write_bytes(folder / name, name.encode())
    record = GuardRecord(
        target="net.py:net", target_digest="0123456789abcdef" * 4, files={},
        input=InputSpec(
            channels=channels, height=height, width=width, mean=(0.5,) * channels,
            std=(0.25,) * channels, channel_order="rgb" if channels == 3 else "gray",
        ),
        class_names=names, images="train.tar", resize=None, limit=None, data_folder=None,
        norm="linf", epsilon=0.125, seed=29,
        bank=bank.summary() | {"test_fooling_rates": [0.7999, 0.8765, 0.8, 0.81]},
        synthetic={
            "form": "clipped", "count": 230, "tried": 251, "accepted": 230,
            "algorithm_1_acceptance": 0.0123,
        },
        rectifier=RectifierSpec(channels=channels), recipe={"epochs": 4.0}, rounds=[],
        detector=DetectorSpec(),
        threshold=THRESHOLD, false_positive_rate=0.01, calibration_pictures=600,
        detection={"roc_area": 0.999, "0.01": 0.97, "0.05": 0.99},
        test_pictures="test.tar", test={}, versions={"torch": "2.14"}, seconds={"bank": 61.5},
    )  # fmt: skip
    write_record(folder, record)


def examples(shape: tuple[int, int, int] = (1, 8, 8)) -> dict[str, Tensor]:
    """Two pictures; every value is exact in float32, so that pixels can be compared exactly."""
    generator = torch.Generator().manual_seed(5)

    def steps(least: int, most: int) -> Tensor:
        return torch.randint(least, most + 1, (2, *shape), generator=generator) / 64

    clean, removed, removed_clean = steps(20, 44), steps(-16, 16), steps(-4, 4)
    removed[:, 0, 0, :2] = 0.25
    perturbed = clean + steps(-8, 8)
    return {
        "clean": clean,
        "perturbed": perturbed,
        "rectified": perturbed - removed,
        "clean_rectified": clean - removed_clean,
        "perturbations": torch.randint(-1, 2, (2, *shape), generator=generator) / 8,
        "true_label": torch.tensor([0, 1]),
        "clean_label": torch.tensor([0, 1]),
        "bare_label": torch.tensor([1, 1]),
        "guarded_label": torch.tensor([0, 1]),
        "clean_score": torch.tensor([-1.11, 0.93]),
        "score": torch.tensor([1.23, 0.41]),
    }


def write_evaluation(
    folder: Path, content: dict[str, Any], tensors: dict[str, Tensor] | None = None
) -> None:
    """Write what a report reads of an evaluation."""
    write_json(folder / "metrics.json", content)
    save_tensors(folder / "examples.safetensors", tensors or examples(), {})


def _figures() -> Callable[[], dict[str, Any]]:
    made = iter(range(1000))

    def figure() -> dict[str, Any]:
        number = next(made)
        value = round(0.0311 + 0.0089 * number, 4)
        return {"value": value, "n": 1000 + number, "low": value - 0.0123, "high": value + 0.0107}

    return figure
