"""`robustness`: measure how a classifier stands up to per-image attacks and to universal ones.

Clean accuracy, accuracy under each per-image attack, rho_adv, epsilon_uni: one part after the
other, each written to the result file as soon as it is done. A run that was interrupted goes on
from there, inside epsilon_uni from the last radius that was tried.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from prn_guard.errors import InvalidArgumentError
from prn_guard.version import __version__
from training.attacks.fooling import Classifier, predict
from training.attacks.norms import Norm, check_ball
from training.attacks.per_image import PER_IMAGE_ATTACKS, per_image
from training.attacks.reference_library import library
from training.attacks.registry import method as universal_method
from training.datasets import Pictures, digest_of, evenly_spaced
from training.evaluation.metrics import proportion
from training.evaluation.per_image_accuracy import accuracy_under, reference_ball
from training.evaluation.result_file import ResultFile
from training.evaluation.robustness import rho_adv
from training.evaluation.universal_robustness import PROBES, RATE
from training.evaluation.universal_search import search_universal_robustness
from training.progress import tracked
from training.randomness import generator_for
from training.setting import hardware, versions

PER_IMAGE_PICTURES: Final = 200
JSMA_PICTURES: Final = 50
"""JSMA changes two values per pass of the classifier."""
UNDER: Final = "under "


def measure_robustness(
    classifier: Classifier,
    crafting: Pictures,
    judging: Pictures,
    out: Path,
    *,
    target: str,
    norm: Norm,
    epsilon: float,
    seed: int,
    rate: float = RATE,
    universal: str = "sign-pgd",
    universal_steps: int | None = None,
    probes: int = PROBES,
    pictures_per_attack: int = PER_IMAGE_PICTURES,
    attacks: Sequence[str] = tuple(PER_IMAGE_ATTACKS),
) -> dict[str, Any]:
    """Measure `classifier` and write every figure, with n and interval, to the file `out`.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits, on the device of the pictures.
        crafting: what universal attacks see.
        judging: other pictures, which everything is measured on.
        out: the result file, JSON; an interrupted measurement of the same request goes on there,
            that of another is replaced. The search of epsilon_uni keeps its state beside it, in
            a file whose name ends in `.search.safetensors`.
        target: what tells the classifier from others, as the digest of its weights.
        norm: of the ball.
        epsilon: its radius for the per-image attacks; `reference_ball` says what becomes of it
            where an attack knows another norm only.
        seed: of every random choice.
        rate: the misclassification rate d of epsilon_uni(d).
        universal: the universal attack of epsilon_uni.
        universal_steps: its steps per radius; None takes its default.
        probes: radii that are tried.
        pictures_per_attack: so many of `judging`, evenly spaced, for each per-image attack and
            for rho_adv; JSMA gets at most 50.
        attacks: the per-image attacks, by name.

    Raises:
        InvalidArgumentError: options that make no sense, or the library of the per-image attacks
            is missing.
        ArtifactError: `out` exists and is no result file of this command.
    """
    check_ball(norm, epsilon, judging.shape)
    _check(universal, pictures_per_attack, attacks)
    request = {
        "target": target,
        "norm": norm,
        "epsilon": epsilon,
        "crafting pictures": digest_of(crafting),
        "judging pictures": digest_of(judging),
        "pictures per attack": pictures_per_attack,
        "rate": rate,
        "universal attack": universal,
        "universal steps": universal_steps,
        "probes": probes,
        "seed": seed,
        "prn-guard": __version__,
    }
    results = ResultFile(out, request)
    results.part("clean_accuracy", lambda: dict(proportion(_right(classifier, judging))))
    for name in attacks:
        few = min(pictures_per_attack, JSMA_PICTURES) if name == "jsma" else pictures_per_attack
        some = evenly_spaced(judging, few)
        results.part(
            f"{UNDER}{name}",
            partial(_under_attack, name, classifier, some, norm=norm, epsilon=epsilon, seed=seed),
        )
    some = evenly_spaced(judging, pictures_per_attack)
    results.part("rho_adv", partial(_rho_adv, classifier, some, seed=seed))
    results.part(
        "universal_robustness",
        lambda: search_universal_robustness(
            classifier, crafting, judging, out.with_name(f"{out.name}.search.safetensors"), request,
            norm=norm, rate=rate, method=universal, steps=universal_steps, number=probes, seed=seed,
        ),
    )  # fmt: skip
    results.part("setting", partial(_setting, judging))
    return results.content


def _check(universal: str, pictures_per_attack: int, attacks: Sequence[str]) -> None:
    universal_method(universal)
    if pictures_per_attack < 1:
        raise InvalidArgumentError(
            f"pictures_per_attack is {pictures_per_attack}; expected at least 1."
        )
    for name in attacks:
        per_image(name)
    if attacks:
        library()


def _setting(judging: Pictures) -> dict[str, Any]:
    return {
        "hardware": hardware(),
        "device": str(judging.device),
        "versions": versions(),
        "delivery": "pictures are kept in [0, 1] and not rounded to 8 bits",
    }


def _right(classifier: Classifier, pictures: Pictures) -> NDArray[np.float64]:
    return (predict(classifier, pictures) == pictures.labels).double().numpy()


def _under_attack(
    name: str,
    classifier: Classifier,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
) -> dict[str, Any]:
    with tracked(f"Attacking picture by picture: {name}") as track:
        ball = reference_ball(name, norm, epsilon, pictures.shape)
        return accuracy_under(
            name,
            classifier,
            pictures,
            norm=ball[0],
            epsilon=ball[1],
            generator=generator_for(seed, f"per-image {name}"),
            on_step=track,
        )


def _rho_adv(classifier: Classifier, pictures: Pictures, *, seed: int) -> dict[str, Any]:
    with tracked("Distance to the nearest boundary") as track:
        return dict(rho_adv(classifier, pictures, seed=seed, on_step=track))
