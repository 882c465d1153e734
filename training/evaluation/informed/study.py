"""The parts of an attack on a guard: what is crafted, how it is judged, what follows from it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, final

from torch import Tensor

from training.attacks.norms import Norm, norm_of
from training.datasets import Pictures, evenly_spaced, held_in_memory
from training.evaluation.informed.attacker import Attacker
from training.evaluation.informed.curves import budgets, fooling_against_epsilon
from training.evaluation.informed.masking import ACCURACY, corner_noise, strongest, verdict
from training.evaluation.informed.suite import ASCENTS, ON_THE_BARE_TARGET, Entry
from training.evaluation.metrics import proportion
from training.evaluation.outcomes import answers
from training.evaluation.protocols import under
from training.evaluation.result_file import ResultFile
from training.randomness import generator_for
from training.setting import hardware, versions

NOISE_DRAWS: Final = 10
CURVE_PICTURES: Final = 1000
CURVE_SCALES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)

Judge = Callable[[Tensor], dict[str, Any]]
"""Figures of the guard on the test pictures under a perturbation `(C, H, W)`."""


@final
class Study:
    """The parts of the result, each measured once.

    Args:
        results: where they are written.
        attacker: who crafts.
        test: pictures to judge on.
        norm: of the ball.
        epsilon: its radius.
        steps: gradients per attack.
        seed: of the random noise.
    """

    def __init__(
        self,
        results: ResultFile,
        attacker: Attacker,
        test: Pictures,
        *,
        norm: Norm,
        epsilon: float,
        steps: int,
        seed: int,
    ) -> None:
        self._results = results
        self._attacker = attacker
        self._guarded = attacker.known.guarded
        self._test = held_in_memory(test, device=attacker.known.crafting.device)
        self._norm: Norm = norm
        self._epsilon = epsilon
        self._steps = steps
        self._seed = seed
        clean = answers(self._guarded, self._test)
        self._judge: Judge = lambda one: (
            dict(under(clean, [answers(self._guarded, self._test, one)]))
            | {"measured_norm": float(norm_of(one, norm))}
        )
        figures = {
            "clean_accuracy": proportion(clean.right(clean.bare)),
            "guarded_clean_accuracy": proportion(clean.right(clean.guarded)),
            "false_positive_rate": proportion(clean.flagged.astype(float)),
        }
        results.part("clean", lambda: figures)

    def attacks(self, entries: Sequence[Entry]) -> None:
        """A row per entry of the suite."""
        for number, entry in enumerate(entries):
            title = f"Attack {number + 1} of {len(entries)}: {entry.name}"
            self._results.part(
                entry.name, partial(self._crafted_row, entry, title), within=("attacks",)
            )

    def held_out(self, perturbations: Tensor | None) -> None:
        """A row per perturbation that was crafted on the target and not shown to the guard.

        Those of a larger ball are scaled down to this one.
        """
        self._results.content.setdefault("held_out", {})
        for number, one in enumerate(() if perturbations is None else perturbations):
            name = f"held-out {number + 1}"
            share = min(1.0, self._epsilon / float(norm_of(one, self._norm)))
            self._results.part(name, partial(self._judge, share * one), within=("held_out",))

    def masking(self) -> None:
        """Transfer and black-box attacks, and whether their order is what it must be."""
        part = self._results.part
        for entry in ON_THE_BARE_TARGET:
            row = partial(self._crafted_row, entry, f"Transfer attack: {entry.name}")
            part(entry.name, row, within=("masking", "transfer"))
        part("random noise", self._noise_row, within=("masking", "black_box"))
        part("random search", self._search_row, within=("masking", "black_box"))
        content = self._results.content
        kinds = (
            content["attacks"],
            content["held_out"] | content["masking"]["transfer"],
            content["masking"]["black_box"],
        )
        found = verdict(*(strongest(rows.values())[ACCURACY] for rows in kinds))
        self._results.state("verdict", found, within=("masking",))

    def curves(self, entries: Sequence[Entry], unseen: Tensor | None) -> None:
        """Of the strongest ascent: accuracy over runs of fewer steps, and fooling over epsilon."""
        rows = self._results.content["attacks"]
        ascents = {entry.name: entry for entry in entries if entry.method in ASCENTS}
        if not ascents:
            return
        name = min(ascents, key=lambda one: float(rows[one][ACCURACY]["value"]))
        entry = ascents[name]
        self._results.state("strongest_ascent", name)
        self._results.part(
            name, partial(self._over_steps, entry), within=("accuracy_against_steps",)
        )
        self._results.part(
            name, partial(self._over_epsilon, entry, unseen), within=("fooling_against_epsilon",)
        )

    def conclude(self) -> None:
        """Name the worst of everything that was tried, and say what the attacker knew."""
        content = self._results.content
        masking = content.get("masking", {})
        rows = content["attacks"] | content["held_out"]
        rows |= masking.get("transfer", {}) | masking.get("black_box", {})
        name = min(rows, key=lambda one: float(rows[one][ACCURACY]["value"]))
        self._results.state("worst", {"attack": name} | rows[name])
        self._results.state("threat_model", threat_model(self._norm, self._epsilon))
        setting = {"versions": versions(), "hardware": hardware()}
        self._results.state("setting", setting | {"device": str(self._test.device)})

    def _crafted_row(self, entry: Entry, title: str) -> dict[str, Any]:
        perturbation, notes = self._attacker.craft(entry, title=title)
        return self._judge(perturbation) | entry.facts() | notes

    def _noise_row(self) -> dict[str, Any]:
        generator = generator_for(self._seed, "informed noise")
        shape = self._test.shape
        draws = (
            corner_noise(shape, self._norm, self._epsilon, generator) for _ in range(NOISE_DRAWS)
        )
        return strongest(map(self._judge, draws)) | {"draws": NOISE_DRAWS}

    def _search_row(self) -> dict[str, Any]:
        perturbation, notes = self._attacker.random_search()
        return self._judge(perturbation) | notes

    def _over_steps(self, entry: Entry) -> dict[str, Any]:
        rows = []
        for steps in budgets(self._steps):
            perturbation, _ = self._attacker.craft(entry, steps=steps)
            rows.append({"steps": steps, ACCURACY: self._judge(perturbation)[ACCURACY]})
        return {"rows": rows}

    def _over_epsilon(self, entry: Entry, unseen: Tensor | None) -> dict[str, Any]:
        rows = fooling_against_epsilon(
            self._guarded,
            evenly_spaced(self._test, CURVE_PICTURES),
            unseen,
            lambda scale: self._attacker.craft(entry, scale=scale)[0],
            norm=self._norm,
            epsilon=self._epsilon,
            scales=CURVE_SCALES,
        )
        return {"rows": rows}


def threat_model(norm: Norm, epsilon: float) -> dict[str, Any]:
    """What the attacker may do and knows, as plain JSON values."""
    return {
        "norm": norm,
        "epsilon": epsilon,
        "universal": "one pattern for all pictures, added before they reach the guard",
        "attacks": "the attacker knows target, rectifier, detector and threshold",
        "held_out": "the attacker knows the target, and neither rectifier nor detector",
        "black_box": "the attacker knows nothing, or asks the guard for labels",
        "delivery": "pictures are clipped to [0, 1] and rounded to 8 bits",
    }
