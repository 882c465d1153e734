"""Command that compares networks: compare."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Loading, device_named, unbundled
from training.cli.subjects import JudgedOption

if TYPE_CHECKING:
    from training.targets import LoadedTarget

OWN: Final = "NAME= takes the weights that the target brings itself"


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(unbundled(compare))


def compare(
    loading: Loading,
    target: options.TargetOption,
    network: Annotated[
        list[str],
        typer.Option(
            "--network",
            metavar="NAME=WEIGHTS",
            help=f"A name and a checkpoint of the target; to be repeated. {OWN}.",
        ),
    ],
    images: options.ImagesOption,
    epsilon: options.EpsilonOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for figures and charts.")],
    test_images: JudgedOption = None,
    epsilons: Annotated[
        str, typer.Option("--epsilons", help="More radii of the curves: 4/255,8/255 or 0.05,0.1.")
    ] = "",
    norm: options.NormOption = "linf",
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="The d of epsilon_uni(d): share misclassified.")
    ] = 0.75,
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            help="Measure only this: accuracy, jacobian, rho-adv, evasion, targeted or "
            "universal-robustness; may be repeated.",
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="Pictures for Jacobians and rho_adv.")
    ] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack of the curves.")] = 100,
    restart: options.RestartOption = False,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Compare networks: accuracy, universal attacks over epsilon, Jacobians, charts. Resumes."""
    bound = console.parse_epsilon(epsilon, norm=norm)
    radii = [console.parse_epsilon(one, norm=norm) for one in epsilons.split(",") if epsilons]
    from training.attacks.subject import for_attacks, parted
    from training.evaluation.comparison import PARTS, Network
    from training.evaluation.comparison import compare as measure
    from training.evaluation.comparison_table import print_comparison

    place = device_named(device)
    loaded = _loaded(loading, target, network)
    networks = [
        Network(name=name, classifier=for_attacks(one.target, place), identity=one.digest())
        for name, one in loaded.items()
    ]
    first = next(iter(loaded.values()))
    shape, classes = first.target.spec.shape, first.class_count
    others = None
    if test_images is not None:
        others = loading.pictures(test_images, "test", shape, classes)
    crafting, judging = parted(
        loading.pictures(images, "train", shape, classes), others, seed=seed, device=place
    )
    result = measure(
        networks,
        crafting,
        judging,
        out,
        norm=norm,
        epsilon=bound,
        epsilons=radii,
        seed=seed,
        rate=rate,
        parts=part or PARTS,
        pictures=pictures,
        steps=steps,
        restart=restart,
    )
    print_comparison(result)
    console.say(f"Figures and charts: {out}")
    console.write_result(json_file, result)


def _loaded(loading: Loading, target: str, networks: list[str]) -> "dict[str, LoadedTarget]":
    """The target under the weights of each network.

    Raises:
        InvalidArgumentError: `--weights` is given as well, or a network is not NAME=WEIGHTS with a
            name of its own.
    """
    from prn_guard.errors import InvalidArgumentError

    if loading.weights is not None:
        raise InvalidArgumentError(
            f"--weights {loading.weights}: a comparison has several checkpoints, each with a name. "
            f"Leave it out and give --network NAME={loading.weights}."
        )
    loaded: dict[str, LoadedTarget] = {}
    for text in networks:
        name, equals, weights = text.partition("=")
        if not equals or not name or name in loaded:
            raise InvalidArgumentError(
                f"--network {text}: expected NAME=WEIGHTS, each time with another name, as "
                f"standard=weights.safetensors. {OWN}."
            )
        loaded[name] = dataclasses.replace(loading, weights=weights or None).target(target)
    return loaded
