"""Commands that show perturbations and measure robustness: show, robustness."""

from pathlib import Path
from typing import Annotated, Any

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Loading, Reading, device_named, unbundled
from training.cli.subjects import JudgedOption, subject_of


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(unbundled(show))
    app.command()(unbundled(robustness))


def show(
    loading: Loading,
    reading: Reading,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Perturbations to draw.")],
    target: options.TargetOption,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    norm: options.NormOption = "linf",
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Draw perturbations: contact sheet, fooling against epsilon, where pictures are sent."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.datasets import held_in_memory
    from training.evaluation.perturbation_pictures import show_perturbations
    from training.perturbations.channel_order import check_channel_order

    loaded = loading.target(target)
    place = device_named(device)
    classifier, shape = loaded.target.to(place), loaded.target.spec.shape
    stack = reading.perturbations(file, shape)
    pictures = held_in_memory(
        loading.pictures(images, "test", shape, loaded.class_count), device=place
    )
    if reading.perturbation_order is None:
        check_channel_order(classifier, pictures, stack)
    names = [f"{file.stem} {number + 1}" for number in range(len(stack))]
    result = show_perturbations(
        classifier, pictures, stack, names, out, norm=norm, epsilon=bound, seed=seed
    )
    console.say(f"Pictures: {out}")
    console.write_result(json_file, result)


def robustness(
    loading: Loading,
    target: options.TargetOption,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="JSON file for the figures.")],
    test_images: JudgedOption = None,
    norm: options.NormOption = "linf",
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="The d of epsilon_uni(d): share misclassified.")
    ] = 0.75,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Per-image attack; may be repeated; all without it."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures for each per-image attack.")] = 200,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Measure robustness: per-image attacks, rho_adv, epsilon_uni by binary search. Resumes."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.attacks.per_image import PER_IMAGE_ATTACKS
    from training.evaluation.robustness_command import measure_robustness

    subject = subject_of(loading, images, test_images, target=target, device=device, seed=seed)
    result = measure_robustness(
        subject.attacked,
        subject.crafting,
        subject.judging,
        out,
        target=subject.identity,
        norm=norm,
        epsilon=bound,
        seed=seed,
        rate=rate,
        pictures_per_attack=pictures,
        attacks=tuple(PER_IMAGE_ATTACKS) if attacks is None else tuple(attacks),
    )
    _print_robustness(result)
    console.write_result(json_file, result)


def _print_robustness(result: dict[str, Any]) -> None:
    rows = [("accuracy, clean", *_shares(result["clean_accuracy"]))]
    for name, part in result.items():
        if name.startswith("under "):
            ball = console.ball_text(part["norm"], part["epsilon"])
            rows.append((f"accuracy {name}, {ball}", *_shares(part["accuracy"])))
    distance = result["rho_adv"]["rho_adv"]
    if distance is not None:
        interval = f"{distance['low']:.4f} to {distance['high']:.4f}"
        rows.append(("rho_adv", f"{distance['value']:.4f}", interval, str(distance["n"])))
    found = result["universal_robustness"]
    largest = "not reached" if found["epsilon"] is None else f"<= {found['epsilon']:.4g}"
    title = f"epsilon_uni({found['rate']:g}), {found['norm']}, an upper bound"
    rows.append((title, largest, f"above {found['not_reached']:.4g} tried", str(found["n"])))
    console.print_table("Robustness", ("figure", "value", "95 %", "n"), rows)


def _shares(figure: dict[str, Any]) -> tuple[str, str, str]:
    interval = f"{figure['low']:.1%} to {figure['high']:.1%}"
    return f"{figure['value']:.1%}", interval, str(figure["n"])
