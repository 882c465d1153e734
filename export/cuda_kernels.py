"""Which operators the CUDA provider of the pinned onnxruntime has a kernel for.

`cuda_kernels.json` holds the kernels of the default ONNX domain, one operator a line: each as
`[first version, last version or null, {type parameter: element types}]`. It is made anew for
another onnxruntime, on a machine with the CUDA libraries and a driver, by

    python -m export.cuda_kernels

which reads the installed onnxruntime's own registry, or by `python -m export.cuda_kernels ROWS.json
VERSION` from rows `[provider, domain, operator, [first, last], {type parameter: [type, ...]}]`.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from prn_guard.files import write_bytes

TABLE = Path(__file__).with_name("cuda_kernels.json")
_OPEN_ENDED = 2**31 - 1
_CUDA = "CUDAExecutionProvider"

Row = tuple[str, str, str, tuple[int, int], Mapping[str, Iterable[str]]]


@dataclass(frozen=True)
class Kernel:
    """One kernel: the operator's versions that it serves, and the types of each type parameter."""

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]

    def serves(self, since_version: int) -> bool:
        """Whether onnxruntime takes this kernel for a version of the operator.

        An open-ended kernel was written before later versions existed: it serves its first only.
        """
        if self.last is None:
            return self.first == since_version
        return self.first <= since_version <= self.last


@dataclass(frozen=True)
class KernelTable:
    """The CUDA kernels of one onnxruntime release, by operator of the default domain."""

    onnxruntime: str
    kernels: Mapping[str, tuple[Kernel, ...]]


@cache
def kernel_table() -> KernelTable:
    """The table that the project carries."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    kernels = {
        operator: tuple(
            Kernel(first, last, {name: frozenset(text.split()) for name, text in types.items()})
            for first, last, types in rows
        )
        for operator, rows in content["kernels"].items()
    }
    return KernelTable(content["onnxruntime"], kernels)


def compact(rows: Iterable[Row], version: str) -> str:
    """Text of `cuda_kernels.json` from the rows of a whole registry.

    Rows of one operator and one range of versions become one where they differ in the types of a
    single parameter; which types go together stays as it was.
    """
    operators: dict[str, dict[tuple[int, int], list[dict[str, frozenset[str]]]]] = {}
    for provider, domain, operator, (first, last), types in rows:
        if provider == _CUDA and domain in {"", "ai.onnx"}:
            named = {name: frozenset(map(element_type, types[name])) for name in types}
            operators.setdefault(operator, {}).setdefault((first, last), []).append(named)
    lines = []
    for operator in sorted(operators):
        entries = []
        for (first, last), kernels in sorted(operators[operator].items()):
            for types in _merged(kernels):
                texts = {name: " ".join(sorted(types[name])) for name in sorted(types)}
                entries.append([first, None if last == _OPEN_ENDED else last, texts])
        lines.append(f"{json.dumps(operator)}: {json.dumps(entries)}")
    body = ",\n".join(lines)
    return f'{{"onnxruntime": {json.dumps(version)}, "kernels": {{\n{body}\n}}}}\n'


def element_type(text: str) -> str:
    """`float` for `tensor(float)`; sequences and other kinds stay as they are."""
    return text[len("tensor(") : -1] if text.startswith("tensor(") else text


def _merged(kernels: list[dict[str, frozenset[str]]]) -> list[dict[str, frozenset[str]]]:
    """Unite sets of types as long as two of them differ in one parameter at most."""
    left = list(kernels)
    while pair := next(filter(_alike, combinations(left, 2)), None):
        one, other = pair
        left = [kernel for kernel in left if kernel is not one and kernel is not other]
        left.append({name: one[name] | other[name] for name in one})
    return sorted(left, key=lambda types: sorted((name, sorted(types[name])) for name in types))


def _alike(pair: tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]) -> bool:
    one, other = pair
    same_names = one.keys() == other.keys()
    return same_names and sum(one[name] != other[name] for name in one) <= 1


def _registered() -> tuple[list[Any], str]:
    """Rows of the installed onnxruntime; without a driver it crashes rather than raise."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    onnxruntime.preload_dlls()
    rows = [
        (one.provider, one.domain, one.op_name, one.version_range, one.type_constraints)
        for one in get_all_opkernel_def()
    ]
    return rows, onnxruntime.__version__


if __name__ == "__main__":
    if len(sys.argv) == 3:
        found, release = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    else:
        found, release = _registered()
    write_bytes(TABLE, compact(found, release).encode())
