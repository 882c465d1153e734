"""Accuracy under a per-image attack, for the reference columns beside universal ones."""

import math
from typing import Any, Final

import numpy as np
import torch

from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.norms import Norm
from training.attacks.per_image import PerImageNorm, per_image, per_image_attack
from training.datasets import Pictures, batch_for, batches
from training.evaluation.metrics import proportion

L0_SHARE: Final = 0.145
"""Papernot et al. 2016, section V: the share of values that JSMA may change."""
LARGEST_BATCH: Final = 100


def reference_ball(
    name: str, norm: Norm, epsilon: float, shape: tuple[int, int, int]
) -> tuple[PerImageNorm, float]:
    """The ball of the attack `name` that stands beside universal ones in `norm` and `epsilon`.

    Where the attack does not know `norm`, another stands in: from linf to l2 and back, radii whose
    root mean square per value is the same (`epsilon_l2 = epsilon_linf * sqrt(C*H*W)`); in l0, which
    has no counterpart, `L0_SHARE`.

    Raises:
        InvalidArgumentError: no attack has that name.
    """
    norms = per_image(name).norms
    if norm in norms:
        return norm, epsilon
    if norms == ("l0",):
        return "l0", L0_SHARE
    root = math.sqrt(math.prod(shape))
    return ("l2", epsilon * root) if norm == "linf" else ("linf", epsilon / root)


def accuracy_under(
    name: str,
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: PerImageNorm,
    epsilon: float,
    generator: torch.Generator,
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Share of `pictures` that are classified right under the attack, with Wilson's interval.

    Pictures that are misclassified when clean count as wrong and are not attacked: an attack that
    only leaves the prediction, as DeepFool, might set them right.

    Args:
        name: a per-image attack.
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of `pictures`.
        pictures: with true labels.
        norm: of the ball.
        epsilon: its radius; see `per_image_attack`.
        generator: CPU generator of every random choice.
        steps: of the attack; None takes its default.
        on_step: told of the pictures done and the pictures in all.

    Raises:
        InvalidArgumentError: what `per_image_attack` raises.
    """
    entry = per_image(name)
    outcomes: list[torch.Tensor] = []
    done = 0
    for images, labels in batches(pictures, batch_for(pictures.shape, LARGEST_BATCH)):
        wanted = labels.to(images.device)
        with torch.no_grad():
            right = classifier(images).argmax(dim=1) == wanted
        if bool(right.any()):
            perturbed = per_image_attack(
                name,
                classifier,
                images[right],
                wanted[right],
                norm=norm,
                epsilon=epsilon,
                generator=generator,
                steps=steps,
            )
            with torch.no_grad():
                answers = classifier(perturbed.to(images.device)).argmax(dim=1)
            right[right.clone()] = answers == wanted[right]
        outcomes.append(right.cpu())
        done += len(images)
        if on_step is not None:
            on_step(done, len(pictures))
    return {
        "norm": norm,
        "epsilon": epsilon,
        "steps": steps or entry.steps,
        "accuracy": proportion(torch.cat(outcomes).double().numpy().astype(np.float64)),
    }
