"""`python -m training`: fit a guard, attack a classifier, evaluate, report.

torch and its friends are imported inside the commands, so that `--help` is instant.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prn_guard import console
from training import options

if TYPE_CHECKING:
    from training.datasets import Pictures
    from training.guard.folder import GuardRecord
    from training.targets import InputOptions, LoadedTarget

app = console.new_app(
    "python -m training", "Fit a guard for a classifier, attack the classifier, evaluate both."
)


def main() -> None:
    """Entry point of `python -m training`."""
    console.run(app)


@app.command()
def fit(
    target: options.TargetOption,
    images: options.ImagesOption,
    test_images: options.TestImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="The guard folder to write.")],
    norm: options.NormOption = "linf",
    weights: options.WeightsOption = None,
    architecture: Annotated[
        Literal["compact", "paper"], typer.Option(help="Rectifier: compact, or as published.")
    ] = "compact",
    members: Annotated[int, typer.Option(min=2, help="Real perturbations to craft.")] = 25,
    held_out: Annotated[int, typer.Option(min=1, help="Of these, kept for evaluation.")] = 5,
    synthetic: Annotated[int, typer.Option(min=0, help="Synthetic perturbations to add.")] = 230,
    epochs: Annotated[float | None, typer.Option(help="Of the rectifier's training.")] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that may be flagged.")
    ] = 0.01,
    resize: options.ResizeOption = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    input_shape: options.ShapeOption = None,
    input_mean: options.MeanOption = None,
    input_std: options.StdOption = None,
    pixel_range: options.RangeOption = None,
    channel_order: options.OrderOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an earlier fit left in --out.")
    ] = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Fit a guard: craft perturbations, train the rectifier, fit the detector."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.guard.fit import fit as fit_guard
    from training.guard.request import FitOptions, FitRequest, NamedPictures

    stated = _input_options(input_shape, input_mean, input_std, pixel_range, channel_order)
    loaded = _load_target(target, weights, stated)
    sets = {
        name: _load_pictures(
            spec, name, loaded, resize=resize, limit=limit, data_folder=data_folder
        )
        for name, spec in (("train", images), ("test", test_images))
    }
    request = FitRequest(
        loaded=loaded,
        training=NamedPictures(images, sets["train"]),
        test=NamedPictures(test_images, sets["test"]),
        norm=norm,
        epsilon=bound,
        options=FitOptions(
            architecture=architecture,
            members=members,
            held_out=held_out,
            synthetic=synthetic,
            epochs=epochs,
            false_positive_rate=false_positive_rate,
            seed=seed,
            resize=resize,
            limit=limit,
            data_folder=None if data_folder is None else str(data_folder),
        ),
    )
    record = fit_guard(request, out, restart=restart)
    _print_fit(record, out)
    console.write_result(json_file, record.model_dump(mode="json"))


@app.command()
def attack(
    target: options.TargetOption,
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Safetensors file for the perturbation.")],
    method: Annotated[str, typer.Option("--method", help="Which attack; see below.")] = "sign-pgd",
    norm: options.NormOption = "linf",
    weights: options.WeightsOption = None,
    target_class: Annotated[
        int | None, typer.Option(min=0, help="Send every picture to this class.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a gradient attack.")] = None,
    resize: options.ResizeOption = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    input_shape: options.ShapeOption = None,
    input_mean: options.MeanOption = None,
    input_std: options.StdOption = None,
    pixel_range: options.RangeOption = None,
    channel_order: options.OrderOption = None,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Craft one universal perturbation; the fooling rate is measured on pictures kept apart.

    Methods: sign-pgd, sgd, momentum, adam (stochastic gradient), iterative-deepfool.
    """
    bound = console.parse_epsilon(epsilon, norm=norm)
    from training.attacks.command import craft_and_measure

    stated = _input_options(input_shape, input_mean, input_std, pixel_range, channel_order)
    loaded = _load_target(target, weights, stated)
    pictures = _load_pictures(
        images, "train", loaded, resize=resize, limit=limit, data_folder=data_folder
    )
    result = craft_and_measure(
        loaded.target,
        pictures,
        out,
        method_name=method,
        norm=norm,
        epsilon=bound,
        target_class=target_class,
        steps=steps,
        seed=seed,
    )
    console.print_table(
        "Universal perturbation", ("what", "value"), [(k, _text(v)) for k, v in result.items()]
    )
    console.write_result(json_file, result)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    images: options.ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result files.")],
    perturbations: Annotated[
        list[Path] | None,
        typer.Option(
            "--perturbations",
            help="Perturbations made elsewhere (.safetensors, .npy, .npz, .pth); may be repeated.",
        ),
    ] = None,
    crafting_images: Annotated[
        str | None,
        typer.Option(help="Pictures of the adaptive attacker; the guard's training pictures."),
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
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
        crafting_images=crafting_images,
        limit=limit,
        data_folder=data_folder,
        seed=seed,
    )
    print_metrics(metrics)
    console.say(f"Results: {out / 'metrics.json'}")
    console.write_result(json_file, metrics)


@app.command()
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


@app.command("demo-target")
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


def _input_options(
    shape: str | None,
    mean: str | None,
    std: str | None,
    pixel_range: int | None,
    channel_order: str | None,
) -> "InputOptions":
    from training.targets import InputOptions

    return InputOptions.parse(
        shape=shape, mean=mean, std=std, pixel_range=pixel_range, channel_order=channel_order
    )


def _load_target(spec: str, weights: str | None, options: "InputOptions") -> "LoadedTarget":
    from training.targets import load_target

    return load_target(spec, weights=weights, input_options=options)


def _load_pictures(
    spec: str,
    split: str,
    loaded: "LoadedTarget",
    *,
    resize: int | None,
    limit: int | None,
    data_folder: Path | None,
) -> "Pictures":
    from training.datasets import load_pictures

    return load_pictures(
        spec,
        split="train" if split == "train" else "test",
        size=loaded.target.spec.shape,
        resize=resize,
        limit=limit,
        class_count=loaded.class_count,
        data_folder=data_folder,
    )


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
        ("seconds", ", ".join(f"{name} {value:.0f}" for name, value in record.seconds.items())),
        ("guard folder", str(out)),
    ]
    console.print_table("Guard", ("what", "value"), rows)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
