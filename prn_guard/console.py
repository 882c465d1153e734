"""What the three command lines share: options, tables, `--json`, and errors as exit code 2."""

import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_guard.errors import InvalidArgumentError, PrnGuardError
from prn_guard.files import write_json

if TYPE_CHECKING:
    from rich.progress import Progress

EXIT_BAD_INPUT = 2
EXIT_STOPPED = 130
"""What typer exits with on Ctrl-C."""

JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write what is printed to FILE, as JSON."),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        help="Refuse the folder unless its manifest is signed by this Ed25519 key (PEM).",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of every random choice; runs repeat under it.")
]


def new_app(name: str, summary: str) -> typer.Typer:
    """An empty command line with this project's common settings."""
    return typer.Typer(
        name=name, help=summary, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )


def run(app: typer.Typer) -> None:
    """Run a command line; a `PrnGuardError` becomes its message and exit code 2."""
    try:
        app()
    except PrnGuardError as error:
        from rich.console import Console

        console = Console(stderr=True)
        console.print(
            f"Error: {_printable_lines(str(error))}",
            style="bold red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(EXIT_BAD_INPUT)
    except SystemExit as error:
        if error.code == EXIT_STOPPED:
            sys.stderr.write(
                "\nStopped; nothing half-written was left. The same command, given again, goes on "
                "from what it had finished.\n"
            )
        raise


def printable(text: str) -> str:
    """`text` with control characters written out, so that no file can steer a terminal."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def _printable_lines(text: str) -> str:
    """As `printable`, but onnxruntime's messages and some of our own have several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def parse_epsilon(text: str, *, norm: str = "linf") -> float:
    """Read a bound on [0, 1] pixels, written as a number or a fraction such as `10/255`.

    An l2 bound may exceed 1; how far is for the attack to check, which knows the picture's size.

    Raises:
        InvalidArgumentError: not a number, not above 0, or in linf above 1. `10` is answered with
            `10/255`.
    """
    try:
        numerator, slash, denominator = text.replace(" ", "").partition("/")
        # Apart, because `Fraction` reads 10/255 and 5.155, but not 5.155/255.
        value = float(Fraction(numerator) / (int(denominator) if slash else 1))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InvalidArgumentError(
            f"epsilon is {text!r}, which is no usable number. Write it on [0, 1] pixels, as 10/255 "
            "or 0.04."
        ) from error
    if value > 1 and norm == "linf":
        raise InvalidArgumentError(
            f"epsilon is {text}, above 1, but pixels run from 0 to 1. Did you mean {text}/255?"
        )
    if value <= 0:
        raise InvalidArgumentError(
            f"epsilon is {text}; it must be above 0 and at most 1, as 10/255 or 0.04."
        )
    return value


def ball_text(norm: str, epsilon: float) -> str:
    """A ball of perturbations for people; linf also on the 0-255 scale, as papers print it."""
    on_bytes = f" ({255 * epsilon:.4g}/255)" if norm == "linf" else ""
    return f"{norm}, epsilon {epsilon:.4g}{on_bytes}"


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str | None = None
) -> None:
    """Print one short table, first column left-aligned, the others right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As `Text`: folder names may hold brackets, which rich would read as markup.
    table = Table(
        title=Text(printable(title)),
        title_justify="left",
        caption=Text(_printable_lines(note)) if note else None,
        caption_justify="left",
    )
    for index, column in enumerate(columns):
        table.add_column(
            Text(printable(column)), justify="right" if index else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table, markup=False)


def say(text: str) -> None:
    """Print a line for people, or several."""
    from rich.console import Console

    Console().print(_printable_lines(text), markup=False, highlight=False, soft_wrap=True)


def write_result(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write a command's result to the file that `--json` named, if it named one."""
    if path is not None:
        write_json(path, dict(result))


def progress() -> "Progress":
    """A progress display: what is done, what is left, and about how long."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
    )
