"""Transfer: what a guard does against perturbations that were not aimed at it, beside baselines.

```
transfer.json          rows, baselines, false alarms, each with n and interval; the threat model
families.safetensors   the perturbations crafted on the bare target, by family
```

Every part is written as soon as it is measured, so that an interrupted run goes on. What an
attacker who knows the guard does is measured elsewhere: transfer alone says little for a guard.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.target import state_digest
from prn_guard.version import __version__
from training.attacks.norms import Norm, norm_of
from training.datasets import Pictures, digest_of
from training.evaluation.baselines import BASELINES, baseline_figures
from training.evaluation.corruptions import CORRUPTIONS, corrupted
from training.evaluation.families import craft_families
from training.evaluation.metrics import relative_accuracy
from training.evaluation.outcomes import Answers, answers
from training.evaluation.protocols import clean_figures, under
from training.evaluation.result_file import ResultFile
from training.evaluation.survey import Entry
from training.evaluation.transfer_groups import BANK_FAMILY, Group, groups_of
from training.progress import tracked
from training.setting import hardware, versions

TRANSFER: Final = "transfer.json"
FAMILIES: Final = "families.safetensors"
LARGER: Final = (1.5, 2.0)


def measure_transfer(
    guarded: GuardedClassifier,
    *,
    norm: Norm,
    epsilon: float,
    crafting: Pictures,
    test: Pictures,
    held_out: Tensor,
    elsewhere: Mapping[str, Tensor],
    families: Sequence[Entry],
    other_norm: Mapping[str, Tensor] | None = None,
    trained_families: Collection[str] = (BANK_FAMILY,),
    larger: Sequence[float] = LARGER,
    repeats: int = 1,
    seed: int,
    out: Path,
    identity: Mapping[str, Any],
    families_path: Path | None = None,
) -> dict[str, Any]:
    """Measure a guard against perturbations that do not know it; write the result to `out`.

    Args:
        guarded: the guard, on the device of the pictures.
        norm: that it was fitted for.
        epsilon: likewise, on [0, 1] pixels.
        crafting: pictures that the families are crafted on.
        test: pictures that everything is measured on.
        held_out: `(P, C, H, W)`, members of the bank that the guard has not seen.
        elsewhere: stacks `(P, C, H, W)` by name, as of files or crafted on another network; taken
            at their own size.
        families: attacks to craft by, on the bare target.
        other_norm: stacks like `elsewhere`, bounded in the other norm.
        trained_families: families that the guard was fitted on; they are marked.
        larger: factors at which every perturbation is measured besides 1: it is multiplied.
        repeats: perturbations of each family.
        seed: of every random choice.
        out: folder of the results; those of another request are replaced.
        identity: whatever else tells this measurement from another, as plain JSON values.
        families_path: where crafted perturbations are kept; None takes a file in `out`. Guards of
            one target can share it, and craft once.

    Returns:
        the content of `transfer.json`.

    Raises:
        InvalidArgumentError: nothing to measure, one name twice, or arguments of an attack.
    """
    crafted = craft_families(
        guarded.target, crafting, families, norm=norm, epsilon=epsilon, seed=seed,
        repeats=repeats, path=families_path or out / FAMILIES,
    )  # fmt: skip
    groups = groups_of(
        norm, held_out=held_out, families=families, crafted=crafted, elsewhere=elsewhere,
        other_norm=other_norm or {},
    )  # fmt: skip
    request = {
        **identity,
        "guard": state_digest(guarded),
        "norm": norm,
        "epsilon": epsilon,
        "test pictures": digest_of(test),
        "perturbations": {one.name: one.digest for one in groups},
        "trained families": sorted(trained_families),
        "larger": list(larger),
        "seed": seed,
        "prn-guard": __version__,
    }
    file = ResultFile(out / TRANSFER, request)
    file.state("threat_model", _threat_model(norm, epsilon))
    if "setting" not in file.content:
        file.state("setting", _setting(test, crafting))
    clean = functools.cache(lambda: answers(guarded, test))
    file.part("clean", lambda: clean_figures(clean()))
    _measure_rows(file, guarded, test, clean, groups, trained_families, [1.0, *larger], seed)
    _measure_baselines(file, guarded, test, groups)
    _measure_false_alarms(file, guarded, test, seed)
    file.state("summary", _summary(list(file.content["perturbations"].values())))
    return file.content


def _threat_model(norm: Norm, epsilon: float) -> dict[str, Any]:
    return {
        "norm": norm,
        "epsilon": epsilon,
        "universal": "one pattern for all pictures, added before they reach the guard",
        "knows": "the attacker knows the target at most, and neither rectifier nor detector",
        "larger": "beyond epsilon the same perturbation is multiplied by the factor that is stated",
        "elsewhere": "perturbations from files keep the size they came with; its norms stand in "
        "each row",
        "baselines": "an input transform in front of the bare target; the attacker does not know "
        "it either",
        "false_alarms": "no attacker: clean pictures, changed harmlessly",
        "delivery": "pictures are clipped to [0, 1] and rounded to 8 bits",
    }


def _setting(test: Pictures, crafting: Pictures) -> dict[str, Any]:
    return {
        "test_pictures": len(test),
        "crafting_pictures": len(crafting),
        "versions": versions(),
        "hardware": hardware(),
        "device": str(test.device),
    }


def _measure_rows(
    file: ResultFile,
    guarded: GuardedClassifier,
    test: Pictures,
    clean: Callable[[], Answers],
    groups: Sequence[Group],
    trained_families: Collection[str],
    factors: Sequence[float],
    seed: int,
) -> None:
    with tracked("Perturbations that do not know the guard") as track:
        for number, (group, factor) in enumerate((one, by) for one in groups for by in factors):
            trained = None if group.family is None else group.family in trained_families
            measure = functools.partial(
                _row, guarded, test, clean, group, factor, trained=trained, seed=seed
            )
            file.part(f"{group.name} x {factor:g}", measure, within=("perturbations",))
            track(number + 1, len(groups) * len(factors))


def _row(
    guarded: GuardedClassifier,
    test: Pictures,
    clean: Callable[[], Answers],
    group: Group,
    factor: float,
    *,
    trained: bool | None,
    seed: int,
) -> dict[str, Any]:
    """Figures under the perturbations of `group`, multiplied by `factor`."""
    scaled, before = group.stack * factor, clean()
    perturbed = [answers(guarded, test, one) for one in scaled]
    right = [one.right(one.guarded) for one in perturbed]
    # Of the bare target: a guard that loses clean pictures must not gain by it.
    was_right = before.right(before.bare)
    least = min(float(one.mean()) for one in right) / max(float(was_right.mean()), 1e-12)
    return {
        "name": group.name,
        "kind": group.kind,
        "family": group.family,
        "trained_family": trained,
        "norm": group.norm,
        "factor": factor,
        "perturbations": len(scaled),
        "linf": float(norm_of(scaled, "linf").max()),
        "l2": float(norm_of(scaled, "l2").max()),
        **under(before, perturbed),
        "relative_accuracy": relative_accuracy(np.mean(right, axis=0), was_right, seed=seed),
        "least_relative_accuracy": least,
    }


def _measure_baselines(
    file: ResultFile, guarded: GuardedClassifier, test: Pictures, groups: Sequence[Group]
) -> None:
    stacks = {one.name: one.stack for one in groups}
    with tracked("Baselines") as track:
        for number, name in enumerate(BASELINES):
            measure = functools.partial(baseline_figures, guarded.target, name, test, stacks)
            file.part(name, measure, within=("baselines",))
            track(number + 1, len(BASELINES))


def _measure_false_alarms(
    file: ResultFile, guarded: GuardedClassifier, test: Pictures, seed: int
) -> None:
    def measure(name: str) -> dict[str, Any]:
        return clean_figures(answers(guarded, corrupted(test, name, seed=seed)))

    with tracked("False alarms") as track:
        for number, name in enumerate(CORRUPTIONS):
            file.part(name, functools.partial(measure, name), within=("false_alarms",))
            track(number + 1, len(CORRUPTIONS))


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Guarded accuracy over clean accuracy, families and files that the guard was not fitted on.

    Means are over groups, at the perturbations' own size; the least is of a single perturbation.
    """
    unseen = [
        row
        for row in rows
        if row["factor"] == 1 and row["kind"] != "other norm" and not row["trained_family"]
    ]
    if not unseen:
        return {"groups": 0, "mean_relative_accuracy": None, "least_relative_accuracy": None}
    return {
        "groups": len(unseen),
        "mean_relative_accuracy": float(np.mean([r["relative_accuracy"]["value"] for r in unseen])),
        "least_relative_accuracy": min(row["least_relative_accuracy"] for row in unseen),
    }
