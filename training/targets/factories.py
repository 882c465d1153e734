"""Targets that a user's own Python file builds, named as `path/to/file.py:factory`."""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from prn_guard.errors import TargetError

_SPEC = re.compile(r"(?P<file>.+\.py):(?P<factory>[A-Za-z_][A-Za-z0-9_]*)")


def split_factory_spec(spec: str) -> tuple[Path, str] | None:
    """Take `path/to/file.py:factory` apart; None when `spec` is not of that form."""
    match = _SPEC.fullmatch(spec)
    return None if match is None else (Path(match["file"]).expanduser(), match["factory"])


def call_factory(file: Path, name: str) -> nn.Module:
    """Import `file` and call its `name` without arguments.

    The file runs under a private module name and its folder is not put on the search path, so a
    `training` package that stands beside it cannot hide this one.

    Returns:
        the module that the factory returned; a `Target` when it owns its input scaling.

    Raises:
        TargetError: no such file or factory, the file or the factory fails, or what it returns is
            no torch module.
    """
    factory = getattr(_import_file(file), name, None)
    if not callable(factory):
        raise TargetError(
            f"{file} defines nothing callable named {name!r}. Name a function (or a class) of that "
            "file that returns the classifier when it is called without arguments."
        )
    try:
        built = factory()
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"The factory {name} of {file} failed: {_describe(error)}. It is called without "
            "arguments; mend it, or load weights by --weights."
        ) from error
    if not isinstance(built, nn.Module):
        raise TargetError(
            f"The factory {name} of {file} returned {type(built).__name__}; expected a "
            "torch.nn.Module that maps pictures to logits, or a prn_guard.nn.target.Target."
        )
    return built


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise TargetError(
            f"There is no file {file} (seen from {Path.cwd()}). Give the path of the Python file "
            "that builds the classifier, as path/to/file.py:factory."
        )
    path = file.resolve()
    private = "_prn_guard_target_" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{file} cannot be imported as Python. Give a .py file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name, also after the import.
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[private]
        raise TargetError(
            f"{file} fails when it is imported: {_describe(error)}. Its folder is not on the "
            "search path: let it stand alone, or install the packages that it imports."
        ) from error
    return module


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
