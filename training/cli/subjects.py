"""What an attack's command line says of its subject: a classifier or a guard, and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from training.cli.loading import Loading, device_named

if TYPE_CHECKING:
    from prn_guard.nn.guarded import GuardedClassifier
    from training.attacks.fooling import Classifier
    from training.attacks.subject import Subject

AttackedOption = Annotated[
    str | None, typer.Option("--target", help="The classifier, as for `fit`; or give --guard.")
]
GuardOption = Annotated[
    Path | None,
    typer.Option("--guard", help="Attack this guard, end to end, instead of a --target."),
]
ThroughOption = Annotated[
    Literal["rectifier", "both branches", "soft gate", "expected guard"],
    typer.Option("--through", help="What stands in for the guard's gate, with --guard."),
]
JudgedOption = Annotated[
    str | None,
    typer.Option(
        "--test-images", help="Pictures to judge by; without them, part of --images is kept apart."
    ),
]


def subject_of(
    loading: Loading,
    images: str,
    test_images: str | None,
    *,
    target: str | None,
    guard: Path | None = None,
    through: str = "soft gate",
    device: str,
    seed: int,
) -> "Subject":
    """Load what is attacked, and part the pictures.

    Raises:
        InvalidArgumentError: not exactly one of target and guard, or no such device.
    """
    from prn_guard.errors import InvalidArgumentError
    from training.attacks.subject import Subject, for_attacks, parted

    place = device_named(device)
    attacked: Any
    deployed: Any
    if target is not None and guard is None:
        loaded = loading.target(target)
        attacked = deployed = for_attacks(loaded.target, place)
        shape, classes, identity = loaded.target.spec.shape, loaded.class_count, loaded.digest()
    elif guard is not None and target is None:
        from prn_guard.nn.target import state_digest
        from training.guard.folder import load_guard
        from training.guard.surrogates import SURROGATES, Surrogate

        guarded, record = load_guard(guard)
        guarded.to(place)
        deployed = _logits_of(guarded)
        attacked = Surrogate(guarded, SURROGATES[through](guarded))
        shape, classes = record.input.shape, len(record.class_names)
        identity = f"guard {state_digest(guarded)} through {through}"
    else:
        raise InvalidArgumentError(
            "Give what to attack: either --target, a classifier, or --guard, a guard folder."
        )
    others = None
    if test_images is not None:
        others = loading.pictures(test_images, "test", shape, classes)
    crafting, judging = parted(
        loading.pictures(images, "train", shape, classes), others, seed=seed, device=place
    )
    return Subject(
        attacked=attacked, deployed=deployed, crafting=crafting, judging=judging, identity=identity
    )


def _logits_of(guarded: "GuardedClassifier") -> "Classifier":
    return lambda images: guarded(images).logits
