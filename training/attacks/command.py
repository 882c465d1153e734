"""`attack`: craft one perturbation on some pictures, measure it on others, write it."""

from pathlib import Path
from typing import Any

import torch

from prn_guard.errors import DataError
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, check_ball, norm_of
from training.attacks.registry import craft, method
from training.checkpoint import save_tensors
from training.datasets import Pictures, Subset, held_in_memory
from training.progress import tracked
from training.randomness import generator_for

CRAFTING_PICTURES = 5000
JUDGING_PICTURES = 5000


def craft_and_measure(
    classifier: Classifier,
    pictures: Pictures,
    out: Path,
    *,
    method_name: str,
    norm: Norm,
    epsilon: float,
    seed: int,
    target_class: int | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Craft a perturbation on half of `pictures` at most, and judge it on others of them.

    Writes `out`, a safetensors file with `perturbations` `(1, C, H, W)` float32 for pixels in
    [0, 1], and returns its figures; `fooling_rate` is against the clean predictions.

    Raises:
        InvalidArgumentError: no such method, or options that make no sense for it.
        DataError: fewer than two pictures.
    """
    method(method_name)
    check_ball(norm, epsilon, pictures.shape)
    if len(pictures) < 2:
        raise DataError("An attack needs pictures to craft on and others to judge by; got one.")
    order = torch.randperm(len(pictures), generator=generator_for(seed, "attack split"))
    crafting = held_in_memory(Subset(pictures, order[: min(CRAFTING_PICTURES, len(order) // 2)]))
    judging = Subset(pictures, order[len(crafting) :][:JUDGING_PICTURES])
    with tracked(f"Attacking by {method_name}") as track:
        perturbation = craft(
            method_name,
            AttackJob(
                classifier=classifier,
                pictures=crafting,
                norm=norm,
                epsilon=epsilon,
                generator=generator_for(seed, "attack"),
                target_class=target_class,
                steps=steps,
                on_step=track,
            ),
        )
    clean = predict(classifier, judging)
    perturbed = predict(classifier, judging, perturbation)
    result: dict[str, Any] = {
        "method": method_name,
        "norm": norm,
        "epsilon": epsilon,
        "measured_norm": float(norm_of(perturbation, norm)),
        "crafting_pictures": len(crafting),
        "judging_pictures": len(judging),
        "fooling_rate": fooling_rate(clean, perturbed),
        "universal_evasion_rate": fooling_rate(judging.labels, perturbed),
        "seed": seed,
    }
    if target_class is not None:
        hits = (perturbed == target_class).double().mean()
        result |= {"target_class": target_class, "targeted_success_rate": float(hits)}
    save_tensors(out, {"perturbations": perturbation[None]}, {"attack": result})
    return result | {"file": str(out)}
