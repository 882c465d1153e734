"""The command that changes the classifier itself: harden."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Loading, device_named, unbundled
from training.cli.methods import lists_methods

if TYPE_CHECKING:
    from training.hardening.request import HardeningRequest


def _print_methods() -> None:
    from training.hardening.registry import METHODS

    for name, entry in METHODS.items():
        console.say(f"{name:16} {entry.summary}")


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(cls=lists_methods(_print_methods))(unbundled(harden))


def harden(
    loading: Loading,
    target: options.TargetOption,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the hardened weights.")],
    method: Annotated[
        str, typer.Option("--method", help="How; `--method` without a value lists the methods.")
    ],
    test_images: Annotated[
        str | None,
        typer.Option(
            "--test-images", help="Report on these, before and after; they decide nothing."
        ),
    ] = None,
    norm: options.NormOption = "linf",
    weight: Annotated[
        float | None, typer.Option(min=0, help="lambda of a penalty; the method's own if left out.")
    ] = None,
    projections: Annotated[
        int | None,
        typer.Option(min=0, help="Random directions per picture of a Jacobian; 0: every class."),
    ] = None,
    adversarial_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of each mini-batch replaced by adversarial examples."
        ),
    ] = None,
    rule: Annotated[
        Literal["fgsm", "sgd", "adam"] | None,
        typer.Option(help="How the universal perturbation of uat and uat-low-cost ascends."),
    ] = None,
    sharedness: Annotated[
        int | None, typer.Option(min=1, help="Pictures that share a perturbation: shared only.")
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Weight of the adversarial loss: shared only."),
    ] = None,
    attack_steps: Annotated[
        int | None, typer.Option(min=1, help="Of the inner attack of shared and pgd.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Like the next five, the method's own if left out.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the beginning.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    largest_gradient: Annotated[
        float | None, typer.Option(help="Gradients are clipped to this l2 norm.")
    ] = None,
    augmentation: Annotated[
        Literal["none", "flip", "crop-flip"] | None,
        typer.Option(help="What is done to training pictures; none if left out."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better validation before the end.")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures whose penalty is computed at once, to bound memory."),
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Cross-entropies in bfloat16.")
    ] = False,
    device: options.DeviceOption = "cpu",
    restart: options.RestartOption = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Fine-tune a classifier against universal perturbations. Resumes; runs under torchrun."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.datasets import NamedPictures
    from training.hardening.command import harden as fine_tune
    from training.hardening.job import MethodOptions
    from training.hardening.registry import recipe_of
    from training.hardening.request import HardeningRequest
    from training.processes import leads, started

    device_named(device)
    recipe = recipe_of(
        method,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        largest_gradient=largest_gradient,
        augmentation=augmentation,
        patience=patience,
    )
    loaded = loading.target(target)
    shape, classes = loaded.target.spec.shape, loaded.class_count
    test = None
    if test_images is not None:
        test = NamedPictures(test_images, loading.pictures(test_images, "test", shape, classes))
    request = HardeningRequest(
        loaded=loaded,
        training=NamedPictures(images, loading.pictures(images, "train", shape, classes)),
        test=test,
        method=method,
        norm=norm,
        epsilon=bound,
        recipe=recipe,
        options=MethodOptions(
            weight=weight,
            projections=projections,
            adversarial_share=adversarial_share,
            rule=rule,
            sharedness=sharedness,
            sigma=sigma,
            attack_steps=attack_steps,
        ),
        seed=seed,
        micro_batch=micro_batch,
        mixed_precision=mixed_precision,
        device=device,
        processes=started(),
    )
    if leads():
        _say_recipe(request, started_from_weights=loading.weights is not None)
    record = fine_tune(request, out, restart=restart)
    if leads():
        _print_record(record, out)
        console.write_result(json_file, record)


def _say_recipe(request: "HardeningRequest", *, started_from_weights: bool) -> None:
    from training.hardening.registry import method

    if not started_from_weights:
        console.say("No --weights: the training starts from what the factory gives.")
    recipe = request.recipe
    console.say(
        f"{request.method}: {recipe.optimizer}, rate {recipe.learning_rate:g}, {recipe.epochs} "
        f"epochs of mini-batches of {recipe.batch_size}. The method's own recipe: "
        f"{method(request.method).source}."
    )


def _print_record(record: dict[str, Any], out: Path) -> None:
    best = record["epochs"][record["kept_epoch"] - 1]
    kept = f"epoch {record['kept_epoch']} of {len(record['epochs'])}"
    count = record["validation_pictures"]
    rows = [
        ("validation, before", *_cells(record["validation_before"], count)),
        (f"validation, {kept}", *_cells(best, count)),
    ]
    for name, figures in record["test"].items():
        if figures is not None:
            rows.append((f"test, {name}", *_cells(figures, figures["clean"]["n"])))
    request = record["request"]
    ball = console.ball_text(request["norm"], request["epsilon"])
    console.print_table(
        f"Accuracy, clean and under a universal perturbation, {ball}",
        ("pictures", "clean, %", "95 %", "universal, %", "95 %", "n"),
        rows,
    )
    console.say(f"Weights, for --weights: {out / 'weights.safetensors'}")
    console.say(f"Record and chart: {out / 'hardening.json'}, {out / 'training.svg'}")


def _cells(figures: dict[str, Any], count: int) -> tuple[str, ...]:
    return (*_percent(figures["clean"]), *_percent(figures["universal"]), str(count))


def _percent(figure: dict[str, Any]) -> tuple[str, str]:
    return (
        f"{100 * figure['value']:.1f}",
        f"{100 * figure['low']:.1f} to {100 * figure['high']:.1f}",
    )
