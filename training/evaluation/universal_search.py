"""The search of epsilon_uni inside a longer measurement: shown, and resumed where it stopped."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from training.attacks.fooling import Classifier
from training.attacks.norms import Norm
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures
from training.evaluation.universal_robustness import PROBES, Probe, universal_robustness
from training.progress import tracked


def search_universal_robustness(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    state: Path,
    request: Mapping[str, Any],
    *,
    norm: Norm,
    rate: float,
    seed: int,
    method: str = "sign-pgd",
    steps: int | None = None,
    number: int = PROBES,
) -> dict[str, Any]:
    """`universal_robustness`, its arguments as there, with progress on the terminal.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        crafting: what the attack sees.
        judging: other pictures, by whose true labels it is judged.
        state: safetensors file where the radii tried and the last perturbation are kept; an
            interrupted search of the same request goes on from there.
        request: all that the search depends on, as plain JSON values.
        norm: of the ball.
        rate: the misclassification rate d.
        seed: of every random choice.
        method: a registered universal attack.
        steps: of the attack; None takes its default.
        number: probes in all.

    Returns:
        What was found, as plain JSON values.

    Raises:
        InvalidArgumentError: `rate` is not above the clean error.
    """
    asked = dict(request)
    probes, last = _kept(state, asked)
    with tracked(f"Smallest universal perturbation that reaches {rate:g}") as track:

        def on_probe(probe: Probe, perturbation: Tensor) -> None:
            probes.append(probe)
            metadata = {"request": asked, "probes": [asdict(one) for one in probes]}
            save_tensors(state, {"last": perturbation}, metadata)
            track(len(probes), number, f"epsilon {probe.epsilon:.4g}: {probe.evasion_rate:.3f}")

        found = universal_robustness(
            classifier,
            crafting,
            judging,
            norm=norm,
            rate=rate,
            method=method,
            steps=steps,
            number=number,
            seed=seed,
            probes=tuple(probes),
            start=last,
            on_probe=on_probe,
        )
    listed = [asdict(probe) for probe in found.probes]
    return asdict(found) | {"probes": listed, "norm": norm, "bound": "upper", "n": len(judging)}


def _kept(state: Path, request: dict[str, Any]) -> tuple[list[Probe], Tensor | None]:
    """The radii that an interrupted search tried, and its last perturbation `(C, H, W)`."""
    if not state.exists():
        return [], None
    tensors, metadata = load_tensors(state)
    if metadata.get("request") != request:
        return [], None
    return [Probe(**probe) for probe in metadata["probes"]], tensors["last"]
