"""`attack`: craft one perturbation on some pictures, measure it on others, write it."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from training.attacks.fooling import fooling_rate, predict
from training.attacks.job import AttackJob
from training.attacks.losses import LossName
from training.attacks.norms import Norm, norm_of
from training.attacks.registry import craft, method
from training.attacks.subject import Subject
from training.checkpoint import check_suffix, save_tensors
from training.progress import tracked
from training.randomness import generator_for


def craft_and_measure(
    subject: Subject,
    *,
    method_name: str,
    norm: Norm,
    epsilon: float,
    seed: int,
    target_class: int | None = None,
    steps: int | None = None,
    loss: LossName | None = None,
    start: Tensor | None = None,
    clean: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Craft a perturbation `(C, H, W)` on the crafting pictures, and judge it on the others.

    Args:
        subject: what is attacked, on which pictures.
        method_name: which attack.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice.
        target_class: send every picture there.
        steps: how long to go on, in the method's own unit.
        loss: what to ascend.
        start: perturbation `(C, H, W)` to go on from.
        clean: what `subject.clean_predictions()` answers, where it is known already.

    Returns:
        the perturbation on the CPU, and its figures; `fooling_rate` is against the clean
        predictions, `universal_evasion_rate` against the true labels.

    Raises:
        InvalidArgumentError: no such method, or options that make no sense for it.
    """
    family = method(method_name).family
    begin = time.monotonic()
    with tracked(f"Attacking by {method_name}") as track:
        job = AttackJob(
            classifier=subject.attacked,
            pictures=subject.crafting,
            norm=norm,
            epsilon=epsilon,
            generator=generator_for(seed, "attack"),
            target_class=target_class,
            start=start,
            steps=steps,
            loss=loss,
            on_step=track,
        )
        perturbation = craft(method_name, job).cpu()
    seconds = time.monotonic() - begin
    clean = subject.clean_predictions() if clean is None else clean
    perturbed = predict(subject.deployed, subject.judging, perturbation)
    result: dict[str, Any] = {
        "method": method_name,
        "family": family,
        "norm": norm,
        "epsilon": epsilon,
        "measured_norm": float(norm_of(perturbation, norm)),
        "crafting_pictures": len(subject.crafting),
        "judging_pictures": len(subject.judging),
        "fooling_rate": fooling_rate(clean, perturbed),
        "universal_evasion_rate": fooling_rate(subject.judging.labels, perturbed),
        "crafting_seconds": round(seconds, 2),
        "seed": seed,
        "loss": loss,
        "steps": steps,
        "classifier": subject.identity,
    }
    if target_class is not None:
        hits = (perturbed == target_class).double().mean()
        result |= {"target_class": target_class, "targeted_success_rate": float(hits)}
    return perturbation, result


def attack(
    subject: Subject,
    out: Path,
    *,
    method_name: str,
    norm: Norm,
    epsilon: float,
    seed: int,
    target_class: int | None = None,
    steps: int | None = None,
    loss: LossName | None = None,
    start: Tensor | None = None,
) -> dict[str, Any]:
    """Craft and measure as `craft_and_measure` does; write `out`, and return the figures.

    `out` is a safetensors file with `perturbations` `(1, C, H, W)` float32 for pixels in [0, 1].

    Raises:
        InvalidArgumentError: no such method, options that make no sense for it, or a name of `out`
            that does not end in `.safetensors`.
    """
    check_suffix(out)
    perturbation, result = craft_and_measure(
        subject,
        method_name=method_name,
        norm=norm,
        epsilon=epsilon,
        seed=seed,
        target_class=target_class,
        steps=steps,
        loss=loss,
        start=start,
    )
    save_tensors(out, {"perturbations": perturbation[None]}, {"attack": result})
    return result | {"file": str(out)}
