"""Commands that make, measure and show guards: fit, evaluate, report, demo-target."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Loading, Reading, device_named, unbundled

if TYPE_CHECKING:
    from training.guard.folder import GuardRecord


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(unbundled(fit))
    app.command()(unbundled(evaluate))
    app.command()(report)
    app.command("demo-target")(demo_target)


def fit(
    loading: Loading,
    target: options.TargetOption,
    images: options.ImagesOption,
    test_images: options.TestImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="The guard folder to write.")],
    norm: options.NormOption = "linf",
    architecture: Annotated[
        Literal["compact", "paper"], typer.Option(help="Rectifier: compact, or as published.")
    ] = "compact",
    factor: Annotated[
        int | None, typer.Option(min=1, help="Of compact: its resolution is 1 / FACTOR.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of compact: channels of the finest level.")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Of compact: residual blocks of each level.")
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(min=1, help="Of compact: resolutions, each half of the last, twice as wide."),
    ] = None,
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(help="Of the rectifier's training: ours, or as published."),
    ] = "default",
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of the rectifier's training; bfloat16 may be faster where built in."),
    ] = "float32",
    members: Annotated[int, typer.Option(min=2, help="Real perturbations to craft.")] = 25,
    held_out: Annotated[int, typer.Option(min=1, help="Of these, kept for evaluation.")] = 5,
    synthetic: Annotated[int, typer.Option(min=0, help="Synthetic perturbations to add.")] = 230,
    epochs: Annotated[float | None, typer.Option(help="Of the rectifier's training.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=0, help="Attacks on the whole guard that it is trained on, in rounds."),
    ] = None,
    clean_divergence: Annotated[
        float | None,
        typer.Option(min=0, help="Weight in the loss: divergence from the target's clean logits."),
    ] = None,
    pixels: Annotated[
        float | None,
        typer.Option(min=0, help="Weight in the loss: squared distance from the clean picture."),
    ] = None,
    detector: Annotated[
        Literal["joint", "linear", "rbf"] | None,
        typer.Option(
            help="Trained together with the rectifier, or an SVM fitted to it afterwards, by its "
            "kernel. Left out: joint where the recipe trains one, else linear."
        ),
    ] = None,
    detector_features: Annotated[
        Literal["plane", "bands", "energy"] | None,
        typer.Option(
            help="What an SVM sees: the log-DCT plane, its averages over frequency bands, or "
            "energies of small blocks. Left out: plane for linear, bands for rbf."
        ),
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that may be flagged.")
    ] = 0.01,
    device: options.DeviceOption = "cpu",
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an earlier fit left in --out.")
    ] = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Fit a guard: perturbations, rectifier, detector. Resumes; runs under torchrun."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.datasets import NamedPictures
    from training.guard.fit import fit as fit_guard
    from training.guard.request import FitOptions, FitRequest
    from training.processes import leads, started

    device_named(device)
    loaded = loading.target(target)
    shape, classes = loaded.target.spec.shape, loaded.class_count
    request = FitRequest(
        loaded=loaded,
        training=NamedPictures(images, loading.pictures(images, "train", shape, classes)),
        test=NamedPictures(test_images, loading.pictures(test_images, "test", shape, classes)),
        norm=norm,
        epsilon=bound,
        options=FitOptions(
            architecture=architecture,
            factor=factor,
            width=width,
            blocks=blocks,
            levels=levels,
            recipe=recipe,
            precision=precision,
            device=device,
            processes=started(),
            members=members,
            held_out=held_out,
            synthetic=synthetic,
            epochs=epochs,
            rounds=rounds,
            clean_divergence=clean_divergence,
            pixels=pixels,
            detector=detector,
            detector_features=detector_features,
            false_positive_rate=false_positive_rate,
            seed=seed,
            resize=loading.resize,
            limit=loading.limit,
            data_folder=None if loading.data_folder is None else str(loading.data_folder),
        ),
    )
    record = fit_guard(request, out, restart=restart)
    if leads():
        _print_fit(record, out)
        console.write_result(json_file, record.model_dump(mode="json"))


def evaluate(
    reading: Reading,
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    images: options.ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result files.")],
    perturbations: Annotated[
        list[Path] | None,
        typer.Option(
            "--perturbations",
            help="File of perturbations made elsewhere; may be repeated.",
        ),
    ] = None,
    crafting_images: Annotated[
        str | None,
        typer.Option(help="Pictures of the adaptive attacker; the guard's training pictures."),
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Measure a guard: protocols A and B, held-out perturbations, an adaptive attacker."""
    from training.evaluation.evaluate import evaluate_guard
    from training.evaluation.tables import print_metrics

    metrics = evaluate_guard(
        folder,
        images,
        out,
        files=perturbations or [],
        read=reading.perturbations,
        crafting_images=crafting_images,
        limit=limit,
        data_folder=data_folder,
        device=device_named(device),
        seed=seed,
    )
    print_metrics(metrics)
    console.say(f"Results: {out / 'metrics.json'}")
    console.write_result(json_file, metrics)


def report(
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    evaluation: Annotated[Path, typer.Option("--evaluation", help="What `evaluate` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    json_file: console.JsonOption = None,
) -> None:
    """Render one self-contained HTML page from a guard and its evaluation."""
    from training.evaluation.report import write_report
    from training.evaluation.tables import print_metrics

    metrics = write_report(folder, evaluation, out)
    print_metrics(metrics)
    console.say(f"Report: {out.resolve()}")
    console.write_result(json_file, metrics)


def demo_target(
    out: Annotated[Path, typer.Option("--out", help="Safetensors file for LeNet's weights.")],
    data_folder: options.DataFolderOption = None,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Train the demonstration's LeNet on Fashion-MNIST."""
    if out.exists():
        console.say(f"{out} is there already; nothing to do.")
        return
    from training.datasets import load_pictures
    from training.demo.train_lenet import train_lenet

    accuracy = train_lenet(
        load_pictures("fashion-mnist", split="train", data_folder=data_folder),
        load_pictures("fashion-mnist", split="test", data_folder=data_folder),
        out,
        seed=seed,
    )
    console.print_table(
        "LeNet", ("what", "value"), [("test accuracy", f"{accuracy:.2%}"), ("weights", str(out))]
    )
    console.write_result(json_file, {"test_accuracy": accuracy, "weights": str(out), "seed": seed})


def _print_fit(record: "GuardRecord", out: Path) -> None:
    bank, test = record.bank, record.test
    rows = [
        ("target", record.target),
        ("ball", console.ball_text(record.norm, record.epsilon)),
        (
            "bank",
            f"{bank['members']} kept ({bank['held_out']} held out) of {bank['candidates']}; "
            f"rejected: {bank['rejected_fooling']} fool too little, "
            f"{bank['rejected_cosine']} too alike"
            + ("; criteria NOT met, strongest kept" if bank["relaxed"] else ""),
        ),
        ("synthetic", f"{record.synthetic['count']} ({record.synthetic['form']})"),
        ("least fooling rate, test pictures", f"{test['least_fooling_rate']:.1%}"),
        ("clean accuracy, bare", f"{test['clean_accuracy']:.2%}"),
        ("clean accuracy, guarded", f"{test['guarded_clean_accuracy']:.2%}"),
        (
            "threshold",
            f"{record.threshold:.4f} (for {record.false_positive_rate:.1%} false alarms)",
        ),
        ("detector", _detector_text(record)),
        ("seconds", ", ".join(f"{name} {value:.0f}" for name, value in record.seconds.items())),
        ("guard folder", str(out)),
    ]
    console.print_table("Guard", ("what", "value"), rows)


def _detector_text(record: "GuardRecord") -> str:
    spec, found = record.detector, record.detection
    size = f", {spec.support_vectors} support vectors" if spec.kernel == "rbf" else ""
    return (
        f"{spec.kernel} on {spec.features}{size}; area {found['roc_area']:.4f} under the ROC curve "
        "of calibration pictures and training perturbations"
    )
