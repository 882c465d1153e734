"""`harden`: from a trained classifier and pictures to a folder with hardened weights.

```
request.json          what was asked for
weights.safetensors   the weights of the epoch that is kept: give them to `--weights`
hardening.json        the record: request, validation after each epoch, figures before and after
training.svg          accuracy after each epoch
state/                of a hardening that is under way; removed when it ends
```
"""

import shutil
import time
from pathlib import Path
from typing import Any, Final, final

import torch

from prn_guard import console
from prn_guard.errors import ArtifactError
from prn_guard.files import read_json, write_bytes, write_json
from training.attacks.subject import for_attacks, parted
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures, Subset, held_in_memory
from training.hardening.epochs import kept_epoch, may_be_kept
from training.hardening.job import HardeningJob
from training.hardening.registry import harden as train
from training.hardening.request import (
    VALIDATION_PICTURES,
    HardeningRequest,
    validation_count,
)
from training.hardening.trainer import Trainer
from training.hardening.training_curve import training_curve
from training.hardening.validation import measure
from training.processes import Processes, processes
from training.progress import tracked
from training.randomness import generator_for
from training.resuming import REQUEST, claim_folder
from training.setting import hardware, versions
from training.targets import save_target_state

RECORD: Final = "hardening.json"
WEIGHTS: Final = "weights.safetensors"
STATE: Final = "state"
CURVE: Final = "training.svg"
HISTORY: Final = "history.json"
FINAL_STEPS: Final = 200
FINAL_BATCH: Final = 128


OURS: Final = frozenset({RECORD, WEIGHTS, CURVE, STATE})


def harden(request: HardeningRequest, out: Path, *, restart: bool = False) -> dict[str, Any]:
    """Harden a classifier and write weights and record to the folder `out`.

    Args:
        request: target, pictures, method.
        out: the folder; an interrupted hardening of the same request goes on there.
        restart: throw away what an earlier hardening left there.

    Returns:
        the record; that of an earlier run, where the folder holds this very one.

    Raises:
        InvalidArgumentError: `out` holds another hardening.
        DataError: the loss stops being finite.
        ArtifactError: the record or the state of an earlier run is damaged.
    """
    with processes(torch.device(request.device)) as together:
        together.lead(
            lambda: claim_folder(
                out, request.fingerprint(), "hardening", ours=OURS, restart=restart
            )
        )
        if (out / RECORD).exists():
            console.say(f"{out} holds this very hardening already; nothing to do.")
            return _read_record(out / RECORD)
        return _Hardening(request, out, together).run()


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise ArtifactError(f"{path} is damaged. Delete its folder and harden anew.")
    return record


@final
class _Hardening:
    """One hardening under way."""

    def __init__(self, request: HardeningRequest, out: Path, together: Processes) -> None:
        self._request = request
        self._out = out
        self._together = together
        self._target = for_attacks(request.loaded.target, torch.device(request.device))
        self._training, self._crafting, self._validation = _parts(request)
        self._epochs: list[dict[str, Any]] = []
        self._before: dict[str, Any] = {}
        self._seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Train, keep one epoch, report."""
        request, state = self._request, self._out / STATE
        self._begin()
        begin = time.monotonic() - self._seconds
        with tracked(f"Hardening by {request.method}") as track:

            def on_step(done: int, total: int, loss: float) -> None:
                self._seconds = time.monotonic() - begin
                if self._together.leads:
                    track(done, total, f"loss {loss:.3f}")

            trainer = Trainer(
                self._target,
                self._training,
                recipe=request.recipe,
                seed=request.seed,
                checkpoint=state / "training.safetensors",
                processes=self._together,
                micro_batch=request.micro_batch,
                mixed_precision=request.mixed_precision,
                validate=self._validate,
                on_step=on_step,
            )
            if trainer.step and self._together.leads:
                console.say(f"Going on after step {trainer.step}.")
            train(
                request.method,
                HardeningJob(
                    trainer=trainer,
                    norm=request.norm,
                    epsilon=request.epsilon,
                    options=request.options,
                ),
            )
        if self._together.leads:
            best, _ = load_tensors(state / _weights_of(kept_epoch(self._epochs)["epoch"]))
            self._target.classifier.load_state_dict(best)
            record = self._record()
            save_target_state(self._target, self._out / WEIGHTS)
            write_bytes(
                self._out / CURVE,
                training_curve(
                    [self._before["validation"], *self._epochs], kept=record["kept_epoch"]
                ),
            )
            write_json(self._out / RECORD, record)
            shutil.rmtree(state, ignore_errors=True)
        self._together.wait()
        return _read_record(self._out / RECORD)

    def _begin(self) -> None:
        """Measure the classifier as it comes, unless an interrupted run did."""
        path = self._out / STATE / HISTORY
        if not self._together.leads:
            return
        if path.exists():
            kept = read_json(path)
            self._before, self._epochs = kept["before"], kept["epochs"]
            self._seconds = kept["seconds"]
            return
        self._before = {
            "validation": {"epoch": 0, **self._measured("validation pictures, before")},
            "test": self._test_figures("before"),
        }
        self._write_history()

    def _write_history(self) -> None:
        history = {"before": self._before, "epochs": self._epochs, "seconds": self._seconds}
        write_json(self._out / STATE / HISTORY, history)

    def _measured(self, title: str) -> dict[str, Any]:
        """Figures of the network as it is, on the validation pictures."""
        request = self._request
        with tracked(f"Attacking, to measure: {title}") as track:
            found = measure(
                self._target,
                self._crafting,
                self._validation,
                norm=request.norm,
                epsilon=request.epsilon,
                seed=request.seed,
                on_step=track,
            )
        return found.facts()

    def _validate(self, epoch: int) -> bool:
        """Measure, keep the weights where they may be wanted, and say whether to stop."""
        stop = False
        if self._together.leads:
            found = self._measured(f"validation pictures, epoch {epoch}")
            earlier = [one for one in self._epochs if one["epoch"] < epoch]
            self._epochs = [*earlier, {"epoch": epoch, **found}]
            self._keep(epoch)
            console.say(
                f"Epoch {epoch}: {found['clean']['value']:.1%} of the validation pictures right, "
                f"{found['universal']['value']:.1%} under a universal perturbation."
            )
            stop = self._request.recipe.may_stop(epoch, kept_epoch(self._epochs)["epoch"])
        return self._together.leader_says(stop)

    def _keep(self, epoch: int) -> None:
        """Write this epoch's weights if they may be kept in the end; drop those that may not."""
        state = self._out / STATE
        numbers = may_be_kept(self._epochs)
        if epoch in numbers:
            save_tensors(state / _weights_of(epoch), self._target.classifier.state_dict(), {})
        self._write_history()
        # The trainer's checkpoint is not written yet: this epoch may be done once more.
        wanted = {*numbers, *may_be_kept(self._epochs[:-1])}
        for path in state.glob(_weights_of("*")):
            if path.name not in map(_weights_of, wanted):
                path.unlink()

    def _test_figures(self, when: str) -> dict[str, Any] | None:
        """Accuracy on the test pictures, for the record alone."""
        request = self._request
        if request.test is None:
            return None
        crafting, judging = parted(
            self._training,
            request.test.pictures,
            seed=request.seed,
            device=torch.device(request.device),
        )
        with tracked(f"Attacking, to measure: {len(judging)} test pictures, {when}") as track:
            return measure(
                self._target,
                crafting,
                judging,
                norm=request.norm,
                epsilon=request.epsilon,
                seed=request.seed,
                steps=FINAL_STEPS,
                batch_size=FINAL_BATCH,
                on_step=track,
            ).facts()

    def _record(self) -> dict[str, Any]:
        return {
            # As claimed at the beginning: the target's weights are others by now.
            "request": read_json(self._out / REQUEST),
            "kept_epoch": kept_epoch(self._epochs)["epoch"],
            "epochs": self._epochs,
            "validation_pictures": len(self._validation),
            "validation_before": self._before["validation"],
            "test": {"before": self._before["test"], "after": self._test_figures("after")},
            "seconds": round(self._seconds, 1),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def _weights_of(epoch: int | str) -> str:
    return f"epoch-{epoch}.safetensors"


def _parts(request: HardeningRequest) -> tuple[Pictures, Pictures, Pictures]:
    """Pictures to train on, some of them to craft on in validation, and others to validate on."""
    pictures = request.training.pictures
    order = torch.randperm(len(pictures), generator=generator_for(request.seed, "hardening split"))
    held = validation_count(len(pictures))
    validation, training = order[:held], order[held:]
    device = torch.device(request.device)
    return (
        held_in_memory(Subset(pictures, training)),
        held_in_memory(Subset(pictures, training[:VALIDATION_PICTURES]), device=device),
        held_in_memory(Subset(pictures, validation), device=device),
    )
