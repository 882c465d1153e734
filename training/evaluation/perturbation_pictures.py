"""Perturbations for people: how they look, how much they fool, and where they send pictures.

The numbers are computed here and drawn in `perturbation_figures`; every picture's numbers stand in
a JSON file beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from prn_guard.files import write_bytes, write_json
from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier, fooling_rate, predict
from training.attacks.norms import Norm, norm_of, steepest_direction
from training.datasets import Pictures, held_in_memory
from training.evaluation.metrics import proportion
from training.perturbations.loading import check_inside
from training.progress import Tracker, tracked
from training.randomness import generator_for

NUMBERS: Final = "perturbations.json"
CONTACT_SHEET: Final = "contact-sheet.png"
CURVES: Final = "fooling-against-epsilon.png"
MOST: Final = 50
"""More do not fit on a sheet that a person takes in."""
FACTORS: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
NOISES: Final = 3
HEAT_MAP_CLASSES: Final = 20
RECEIVING: Final = 15


def sent_to(clean: Tensor, perturbed: Tensor, classes: int) -> Tensor:
    """Where pictures are sent: counts `(K, K)` int64, `[clean label, label when perturbed]`.

    Args:
        clean: predicted labels `(N,)` int64 of the clean pictures, 0..K-1.
        perturbed: those of the same pictures under a perturbation.
        classes: K.
    """
    return torch.bincount(clean * classes + perturbed, minlength=classes**2).reshape(
        classes, classes
    )


def received(counts: Tensor) -> Tensor:
    """How many pictures that were something else each class receives, `(K,)`, of `sent_to`."""
    return counts.sum(dim=0) - counts.diagonal()


def fooling_against_epsilon(
    classifier: Classifier,
    pictures: Pictures,
    perturbation: Tensor,
    factors: Sequence[float],
    *,
    clean: Tensor | None = None,
    on_step: OnStep | None = None,
) -> list[float]:
    """Fooling rates of `perturbation` `(C, H, W)` times each of `factors`, direction kept.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: to fool.
        perturbation: for pixels in [0, 1].
        factors: of its values.
        clean: predicted labels `(N,)` of the clean pictures; None asks for them.
        on_step: told of every factor.
    """
    known = predict(classifier, pictures) if clean is None else clean
    rates = []
    for number, factor in enumerate(factors):
        rates.append(fooling_rate(known, predict(classifier, pictures, factor * perturbation)))
        if on_step is not None:
            on_step(number + 1, len(factors))
    return rates


def show_perturbations(
    classifier: Classifier,
    pictures: Pictures,
    perturbations: Tensor,
    names: Sequence[str],
    out: Path,
    *,
    norm: Norm,
    epsilon: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw perturbations, their fooling against epsilon and where they send pictures.

    Writes to `out` a contact sheet, the curves, one `sent-to-NUMBER.png` per perturbation, and
    `perturbations.json` with the numbers behind them.

    Args:
        classifier: maps `(B, C, H, W)` in [0, 1] to logits.
        pictures: to fool; all of them are tried `7 * (P + 3)` times.
        perturbations: `(P, C, H, W)` for pixels in [0, 1], at most `MOST`.
        names: one for each.
        out: folder.
        norm: of the ball they are said to lie in.
        epsilon: its radius; the curves go to twice of it, every perturbation brought to the same
            norm.
        seed: of the random noise that they are compared with.

    Returns:
        The content of the JSON file.

    Raises:
        InvalidArgumentError: another number of names, a ball that makes no sense, or matplotlib is
            missing.
        DataError: none, too many, of another shape than the pictures, 0 everywhere, or outside the
            ball.
        StorageError: a file could not be written.
    """
    _check(pictures, perturbations, names, norm, epsilon)
    figures = _figures()
    stack = perturbations.detach().float().cpu()
    held = held_in_memory(pictures, device=pictures.device)
    with tracked("Trying perturbations") as track:
        numbers, tables = _measure(
            classifier, held, stack, names, norm=norm, epsilon=epsilon, seed=seed, track=track
        )
    rows = numbers["perturbations"]
    for left_over in out.glob("sent-to-[0-9]*.png"):
        left_over.unlink()
    write_bytes(out / CONTACT_SHEET, figures.contact_sheet(stack, rows, norm=norm))
    write_bytes(out / CURVES, figures.epsilon_curves(numbers))
    class_names = _all_names(pictures.class_names, len(tables[0]))
    for row, table in zip(rows, tables, strict=True):
        if len(table) <= HEAT_MAP_CLASSES:
            content = figures.confusion_map(table.numpy(), class_names, row)
        else:
            content = figures.receiving_bars(class_names, row)
        write_bytes(out / row["sent_to"]["picture"], content)
    write_json(out / NUMBERS, numbers)
    return numbers


def _measure(
    classifier: Classifier,
    pictures: Pictures,
    stack: Tensor,
    names: Sequence[str],
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    track: Tracker,
) -> tuple[dict[str, Any], list[Tensor]]:
    """The content of the JSON file, and the `sent_to` table of each perturbation."""
    noise = torch.randn(NOISES, *pictures.shape, generator=generator_for(seed, "random noise"))
    passes = len(FACTORS) * (len(stack) + NOISES) + len(stack)
    done = 0

    def count(*_: int) -> None:
        nonlocal done
        done += 1
        track(done, passes)

    clean = predict(classifier, pictures)
    under = []
    for one in stack:
        under.append(predict(classifier, pictures, one))
        count()

    def curve(direction: Tensor) -> list[float]:
        return fooling_against_epsilon(
            classifier, pictures, epsilon * direction, FACTORS, clean=clean, on_step=count
        )

    classes = 1 + max(int(labels.max()) for labels in [clean, *under])
    classes = max(classes, len(pictures.class_names))
    tables = [sent_to(clean, labels, classes) for labels in under]
    class_names = _all_names(pictures.class_names, classes)
    rows = [
        {
            "name": name,
            "norm": float(norm_of(one, norm)),
            "largest_value": float(one.abs().max()),
            "fooling_rate": proportion((clean != labels).double().numpy()),
            "fooling_against_epsilon": curve(one / norm_of(one, norm)),
            "sent_to": {"picture": f"sent-to-{number:02d}.png", **_summary(table, class_names)},
        }
        for number, (name, one, labels, table) in enumerate(
            zip(names, stack, under, tables, strict=True), start=1
        )
    ]
    chance = torch.tensor(
        [curve(steepest_direction(one, norm)) for one in noise], dtype=torch.float64
    )
    return {
        "norm": norm,
        "epsilon": epsilon,
        "pictures": len(pictures),
        "seed": seed,
        "epsilons": [factor * epsilon for factor in FACTORS],
        "perturbations": rows,
        "random_noise": chance.mean(dim=0).tolist(),
        "random_noise_draws": NOISES,
    }, tables


def _summary(table: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Which classes receive the pictures that change; all counts where the classes are few."""
    arrived = received(table)
    changed = int(arrived.sum())
    order = arrived.sort(descending=True, stable=True).indices[:RECEIVING].tolist()
    most = [one for one in order if arrived[one] > 0]
    summary: dict[str, Any] = {
        "changed": changed,
        "receiving_classes": int((arrived > 0).sum()),
        "most_receiving": [
            {"label": one, "class": class_names[one], "pictures": int(arrived[one])} for one in most
        ],
        "dominant_share_of_changed": int(arrived[most[0]]) / changed if most else None,
    }
    if len(table) <= HEAT_MAP_CLASSES:
        summary["counts_clean_to_perturbed"] = table.tolist()
    return summary


def _check(
    pictures: Pictures, perturbations: Tensor, names: Sequence[str], norm: Norm, epsilon: float
) -> None:
    if perturbations.shape[1:] != pictures.shape or not 1 <= len(perturbations) <= MOST:
        raise DataError(
            f"The perturbations have shape {tuple(perturbations.shape)}; expected 1 to {MOST} of "
            f"{tuple(pictures.shape)}, as the pictures. Choose some of them, or other pictures."
        )
    if len(names) != len(perturbations):
        raise InvalidArgumentError(
            f"There are {len(names)} names for {len(perturbations)} perturbations; expected one "
            "for each."
        )
    largest = perturbations.abs().flatten(1).amax(dim=1)
    if not bool((largest > 0).all()):
        raise DataError(
            f"Perturbation {names[int(largest.argmin())]!r} is 0 everywhere: there is nothing to "
            "show. Leave it out."
        )
    check_inside(perturbations, norm, epsilon)


def _all_names(known: Sequence[str], classes: int) -> list[str]:
    """A classifier may know more classes than its pictures name; bare numbers say what they are."""
    more = [*known, *(str(index) for index in range(len(known), classes))]
    return [f"class {name}" if name.isdigit() else name for name in more]


def _figures() -> Any:
    try:
        from training.evaluation import perturbation_figures
    except ImportError as error:
        raise InvalidArgumentError(
            f"Pictures of perturbations need matplotlib ({error}). Install prn-guard[reports]."
        ) from error
    return perturbation_figures
