"""`--method` without a value lists the methods of a command, and ends."""

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand


def lists_methods(print_methods: Callable[[], None]) -> type[TyperCommand]:
    """A kind of command whose `--method` without a value calls `print_methods`, and ends."""

    class ListsMethods(TyperCommand):
        """A command that knows its methods."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if "--method" in args:
                following = args[args.index("--method") + 1 :][:1]
                if not following or following[0].startswith("-"):
                    print_methods()
                    ctx.exit()
            return super().parse_args(ctx, args)

    return ListsMethods
