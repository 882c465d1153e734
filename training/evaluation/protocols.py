"""The paper's two protocols, and the columns that they leave out.

Source: PRN paper, section 5. Protocol A takes all test pictures, B those that the target classifies
correctly when clean; each picture is perturbed with probability one half by a random held-out
perturbation. The 50/50 mix hides damage (an undefended GoogLeNet scores 0.69 in it), so clean
and perturbed pictures are also reported apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_guard.errors import DataError
from training.evaluation.metrics import Figure, prn_gain, proportion, relative_accuracy
from training.evaluation.outcomes import Answers


def apart(clean: Answers, perturbed: Sequence[Answers]) -> dict[str, Figure]:
    """Clean and perturbed figures apart; each picture under every one of the perturbations."""
    return {**clean_figures(clean), **under(clean, perturbed)}


def clean_figures(clean: Answers) -> dict[str, Figure]:
    """Figures on pictures that nobody attacked; what is flagged there is a false alarm."""
    return {
        "clean_accuracy": proportion(clean.right(clean.bare)),
        "guarded_clean_accuracy": proportion(clean.right(clean.guarded)),
        "rectified_clean_accuracy": proportion(clean.right(clean.rectified)),
        "false_positive_rate": proportion(clean.flagged.astype(np.float64)),
    }


def under(clean: Answers, perturbed: Sequence[Answers]) -> dict[str, Figure]:
    """Figures on perturbed pictures only, averaged over the perturbations."""
    return {
        "undefended_perturbed_accuracy": _mean([a.right(a.bare) for a in perturbed]),
        "guarded_perturbed_accuracy": _mean([a.right(a.guarded) for a in perturbed]),
        "rectified_perturbed_accuracy": _mean([a.right(a.rectified) for a in perturbed]),
        "undefended_fooling_rate": _mean([_changed(a.bare, clean.bare) for a in perturbed]),
        "guarded_fooling_rate": _mean([_changed(a.guarded, clean.bare) for a in perturbed]),
        "perturbed_flagged_rate": _mean([a.flagged.astype(np.float64) for a in perturbed]),
    }


def protocol(
    clean: Answers, perturbed: Sequence[Answers], *, chosen: NDArray[np.bool_], seed: int
) -> dict[str, Any]:
    """The paper's four metrics on the pictures `chosen` `(N,)`.

    PRN-gain is taken on the perturbed half of the mix, the others on the whole mix.

    Raises:
        DataError: none of `chosen` fell into the perturbed half.
    """
    generator = np.random.default_rng(seed)
    count = len(chosen)
    is_perturbed = generator.random(count) < 0.5
    half = is_perturbed[chosen]
    if not half.any():
        raise DataError(
            f"{int(chosen.sum())} of {count} test pictures serve for a protocol (in B those that "
            "the bare target gets right), and none of them is in its perturbed half. Give more "
            "test pictures, or a target that fits them."
        )
    which = generator.integers(len(perturbed), size=count)

    def mix(clean_values: NDArray[Any], perturbed_values: list[NDArray[Any]]) -> NDArray[Any]:
        picked = np.stack(perturbed_values)[which, np.arange(count)]
        return np.where(is_perturbed, picked, clean_values)[chosen]

    was_right = clean.right(clean.bare)[chosen]
    rectified = mix(clean.right(clean.rectified), [a.right(a.rectified) for a in perturbed])
    bare = mix(clean.right(clean.bare), [a.right(a.bare) for a in perturbed])
    guarded = mix(clean.right(clean.guarded), [a.right(a.guarded) for a in perturbed])
    flagged = mix(clean.flagged, [a.flagged for a in perturbed])
    return {
        "pictures": int(chosen.sum()),
        "prn_gain": prn_gain(rectified[half], bare[half], seed=seed),
        "prn_restoration": relative_accuracy(rectified, was_right, seed=seed),
        "detection_rate": proportion((flagged == half).astype(np.float64)),
        "defense_rate": relative_accuracy(guarded, was_right, seed=seed),
        "undefended_rate": relative_accuracy(bare, was_right, seed=seed),
    }


def _mean(values: list[NDArray[np.float64]]) -> Figure:
    return proportion(np.mean(values, axis=0))


def _changed(labels: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.float64]:
    changed: NDArray[np.bool_] = labels != before
    return changed.astype(np.float64)
