"""Commands that attack: attack, bank, survey."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Loading, device_named, unbundled
from training.cli.methods import lists_methods
from training.cli.subjects import (
    AttackedOption,
    GuardOption,
    JudgedOption,
    ThroughOption,
    subject_of,
)

if TYPE_CHECKING:
    from training.attacks.norms import Norm
    from training.attacks.subject import Subject

DRAWN_PICTURES: Final = 500
"""Of the judging pictures, for the curves and tables that a survey draws."""
LossOption = Annotated[
    Literal["cross_entropy", "logit_margin", "logit_cosine"] | None,
    typer.Option("--loss", help="What a gradient attack ascends, instead of its own."),
]


def _print_methods() -> None:
    from training.attacks.registry import METHODS

    for name, entry in METHODS.items():
        console.say(f"{name:20} {entry.summary}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(cls=lists_methods(_print_methods))(unbundled(attack))
    app.command()(unbundled(bank))
    app.command(cls=lists_methods(_print_methods))(unbundled(survey))


def attack(
    loading: Loading,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Safetensors file for the perturbation.")],
    target: AttackedOption = None,
    guard: GuardOption = None,
    through: ThroughOption = "soft gate",
    method: Annotated[
        str, typer.Option("--method", help="Which attack; `--method` without a value lists them.")
    ] = "sign-pgd",
    norm: options.NormOption = "linf",
    target_class: Annotated[
        int | None, typer.Option(min=0, help="Send every picture to this class.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="How long to go on, in the method's own unit.")
    ] = None,
    loss: LossOption = None,
    start: Annotated[
        Path | None,
        typer.Option(help="File whose first perturbation to go on from, on [0, 1] pixels."),
    ] = None,
    test_images: JudgedOption = None,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Craft one universal perturbation; the fooling rate is measured on pictures kept apart."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.attacks.command import attack as craft
    from training.perturbations.loading import load_perturbations

    subject = subject_of(
        loading, images, test_images, target=target, guard=guard, through=through,
        device=device, seed=seed,
    )  # fmt: skip
    first = None if start is None else load_perturbations(start, subject.crafting.shape)[0]
    result = craft(
        subject,
        out,
        method_name=method,
        norm=norm,
        epsilon=bound,
        target_class=target_class,
        steps=steps,
        loss=loss,
        start=first,
        seed=seed,
    )
    console.print_table(
        "Universal perturbation", ("what", "value"), [(k, _text(v)) for k, v in result.items()]
    )
    console.write_result(json_file, result)


def bank(
    loading: Loading,
    target: options.TargetOption,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Safetensors file for the bank.")],
    norm: options.NormOption = "linf",
    members: Annotated[int, typer.Option(min=2, help="Perturbations wanted.")] = 25,
    held_out: Annotated[int, typer.Option(min=1, help="Of these, marked as held out.")] = 5,
    least_fooling: Annotated[
        float, typer.Option(min=0, max=1, help="Fooling rate that a member must reach.")
    ] = 0.8,
    most_cosine: Annotated[
        float, typer.Option(min=0, max=1, help="Largest |cosine| between two members.")
    ] = 0.15,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each attack.")] = 100,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates crafted at once: 1 on the CPU, 8 on a GPU."),
    ] = None,
    test_images: Annotated[
        str | None,
        typer.Option("--test-images", help="Report fooling rates on these too; they decide none."),
    ] = None,
    device: options.DeviceOption = "cpu",
    restart: options.RestartOption = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Craft a bank: diverse perturbations that each fool the classifier. Resumes."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.attacks.engine import Schedule
    from training.datasets import held_in_memory
    from training.perturbations.bank import BankCriteria
    from training.perturbations.command import BankRequest, make_bank

    subject = subject_of(loading, images, None, target=target, device=device, seed=seed)
    test = None
    if test_images is not None:
        shape, classes = subject.crafting.shape, len(subject.crafting.class_names)
        pictures = loading.pictures(test_images, "test", shape, classes)
        test = held_in_memory(pictures, device=device_named(device))
    request = BankRequest(
        subject=subject,
        norm=norm,
        epsilon=bound,
        seed=seed,
        criteria=BankCriteria(
            members=members,
            held_out=held_out,
            least_fooling=least_fooling,
            most_cosine=most_cosine,
        ),
        schedule=Schedule(steps=steps),
        together=together or (1 if device == "cpu" else 8),
    )
    result = make_bank(request, out, test=test, restart=restart)
    _print_bank(result)
    console.write_result(json_file, result)


def survey(
    loading: Loading,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for table, files and pictures.")],
    target: AttackedOption = None,
    guard: GuardOption = None,
    through: ThroughOption = "soft gate",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="METHOD or METHOD:LOSS; may be repeated; all without it; without a value: a list.",
        ),
    ] = None,
    norm: options.NormOption = "linf",
    test_images: JudgedOption = None,
    device: options.DeviceOption = "cpu",
    restart: options.RestartOption = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Try every universal attack on one classifier: one table, and pictures. Resumes."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.evaluation.survey import parse_entry
    from training.evaluation.survey import survey as try_all

    entries = None if method is None else [parse_entry(text) for text in method]
    subject = subject_of(
        loading, images, test_images, target=target, guard=guard, through=through,
        device=device, seed=seed,
    )  # fmt: skip
    result = try_all(
        subject, out, norm=norm, epsilon=bound, seed=seed, entries=entries, restart=restart
    )
    _draw_survey(subject, out, norm=norm, epsilon=bound, seed=seed)
    rows = [
        (
            row["name"],
            row["family"],
            f"{row['fooling_rate']:.1%}",
            f"{row['fooling_low']:.1%} to {row['fooling_high']:.1%}",
            f"{row['universal_evasion_rate']:.1%}",
            f"{row['crafting_seconds']:.0f}",
        )
        for row in result["attacks"]
    ]
    title = f"Universal attacks, {console.ball_text(norm, bound)}, {len(subject.judging)} pictures"
    console.print_table(
        title, ("attack", "family", "fooling rate", "95 %", "evasion", "seconds"), rows
    )
    console.say(f"Results and pictures: {out}")
    console.write_result(json_file, result)


def _draw_survey(subject: "Subject", out: Path, *, norm: "Norm", epsilon: float, seed: int) -> None:
    import torch

    from training.checkpoint import load_tensors
    from training.datasets import evenly_spaced
    from training.evaluation.perturbation_pictures import show_perturbations
    from training.evaluation.survey import PERTURBATIONS

    made, _ = load_tensors(out / PERTURBATIONS)
    some = evenly_spaced(subject.judging, DRAWN_PICTURES)
    stack = torch.stack(list(made.values()))
    show_perturbations(
        subject.deployed, some, stack, list(made), out, norm=norm, epsilon=epsilon, seed=seed
    )


def _print_bank(result: dict[str, Any]) -> None:
    rates = result["fooling_rates"]
    rows = [
        ("members", f"{result['members']} ({result['held_out']} held out)"),
        ("candidates", str(result["candidates"])),
        ("rejected, fool too little", str(result["rejected_fooling"])),
        ("rejected, too alike", str(result["rejected_cosine"])),
        ("criteria", "NOT met, the strongest kept" if result["relaxed"] else "met"),
        ("fooling rates, judging pictures", f"{min(rates):.1%} to {max(rates):.1%}"),
        ("largest |cosine|", f"{result['largest_cosine']:.3f}"),
    ]
    if "test_fooling_rates" in result:
        rates = result["test_fooling_rates"]
        count = result["test_pictures"]
        rows.append(
            (f"fooling rates, {count} test pictures", f"{min(rates):.1%} to {max(rates):.1%}")
        )
    rows.append(("file", result["file"]))
    console.print_table("Perturbation bank", ("what", "value"), rows)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
