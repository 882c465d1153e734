"""Attack a guard with everything known, and check that the attack is strong.

```
informed.json          a row per attack, the worst named; masking checks; curves; threat model
informed.safetensors   the perturbations
```

Each perturbation is kept as soon as it is crafted, and each row as soon as it is measured, so that
an interrupted run goes on.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.version import __version__
from training.attacks.norms import Norm, check_ball
from training.datasets import Pictures, check_other_pictures, digest_of
from training.evaluation.informed.attacker import Attacker, knowledge
from training.evaluation.informed.store import PerturbationStore
from training.evaluation.informed.study import Study
from training.evaluation.informed.suite import entries_named
from training.evaluation.result_file import ResultFile, earlier_results
from training.guard.recipe import Precision
from training.resuming import check_same_request

INFORMED: Final = "informed.json"
PERTURBATIONS: Final = "informed.safetensors"
STEPS: Final = 1000


def attack_guard(
    guarded: GuardedClassifier,
    *,
    norm: Norm,
    epsilon: float,
    crafting: Pictures,
    test: Pictures,
    out: Path,
    identity: Mapping[str, Any],
    bank_unseen: Tensor | None = None,
    steps: int = STEPS,
    entries: Sequence[str] | None = None,
    precision: Precision = "float32",
    checks: bool = True,
    seed: int = 0,
    restart: bool = False,
) -> dict[str, Any]:
    """Attack `guarded` by the suite, judge it on `test`, and write the result files to `out`.

    Args:
        guarded: the guard, on the device to compute on.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        crafting: pictures of the attacker; none of `test`.
        test: what everything is judged on, in float32 and delivered as 8-bit pixels.
        out: folder for the results; an interrupted run of the same request goes on there.
        identity: what tells this guard from others, as plain JSON values.
        bank_unseen: held-out perturbations `(P, C, H, W)`; None has none, and leaves out the attack
            that starts from one.
        steps: gradients per attack.
        entries: names of the attacks to make; None makes all.
        precision: that surrogates are differentiated in.
        checks: also make the masking checks, and the curves over steps and epsilon.
        seed: of every random choice.
        restart: throw away what an earlier run left in `out`.

    Returns:
        what was written: `attacks`, `held_out`, `worst`, `masking` and more.

    Raises:
        InvalidArgumentError: a ball, steps or names that make no sense, or `out` holds results of
            another request.
        DataError: too few crafting pictures, or the test pictures are the same.
    """
    request = attack_request(
        norm=norm, epsilon=epsilon, crafting=crafting, test=test, identity=identity,
        bank_unseen=bank_unseen, steps=steps, precision=precision, seed=seed,
    )  # fmt: skip
    chosen = [one for one in entries_named(entries) if bank_unseen is not None or not one.warm]
    if not chosen:
        raise InvalidArgumentError(
            f"{', '.join(entries or ())}: starts from a held-out perturbation, and there is none. "
            "Give bank_unseen, or choose other entries."
        )
    if restart:
        (out / INFORMED).unlink(missing_ok=True)
        (out / PERTURBATIONS).unlink(missing_ok=True)
    check_folder(out, request)
    results = ResultFile(out / INFORMED, request)
    starts = bank_unseen if any(entry.warm for entry in chosen) else None
    known = knowledge(guarded, crafting, norm=norm, precision=precision, seed=seed, starts=starts)
    store = PerturbationStore(out / PERTURBATIONS, request)
    attacker = Attacker(known, store, epsilon=epsilon, steps=steps, seed=seed)
    study = Study(results, attacker, test, norm=norm, epsilon=epsilon, steps=steps, seed=seed)
    study.attacks(chosen)
    study.held_out(bank_unseen)
    if checks:
        study.masking()
        study.curves(chosen, bank_unseen)
    study.conclude()
    return results.content


def attack_request(
    *,
    norm: Norm,
    epsilon: float,
    crafting: Pictures,
    test: Pictures,
    identity: Mapping[str, Any],
    bank_unseen: Tensor | None,
    steps: int,
    precision: Precision,
    seed: int,
) -> dict[str, Any]:
    """All that the result of `attack_guard` with these arguments depends on.

    Raises:
        InvalidArgumentError: a ball or steps that make no sense.
        DataError: crafting and test pictures are the same.
    """
    check_ball(norm, epsilon, test.shape)
    if steps < 1:
        raise InvalidArgumentError(f"steps is {steps}; expected at least 1.")
    crafted_on, judged_on = digest_of(crafting), digest_of(test)
    check_other_pictures(judged_on, crafted_on, "those that the attacker crafts on")
    return {
        **identity,
        "norm": norm,
        "epsilon": epsilon,
        "crafting pictures": crafted_on,
        "test pictures": judged_on,
        "held-out perturbations": _digest(bank_unseen),
        "steps": steps,
        "precision": precision,
        "seed": seed,
        "prn-guard": __version__,
    }


def check_folder(out: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder whose `informed.json` is of another request.

    Raises:
        InvalidArgumentError: it is.
        ArtifactError: it is no result of this command.
    """
    before = earlier_results(out / INFORMED)
    if before is not None:
        check_same_request(before["request"], request, out, "an attack on a guard")


def _digest(perturbations: Tensor | None) -> str | None:
    if perturbations is None:
        return None
    values = perturbations.detach().cpu().contiguous().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()
