"""The table of CUDA kernels, against the whole registry as it was read from the release."""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from export.cuda_kernels import TABLE, Kernel, compact, kernel_table
from export.placement import table_placement
from tests.export.small_graphs import model

WHOLE = Path(__file__).resolve().parents[3] / "shared/data/onnxruntime_1.31.1_cuda_kernels.json"
needs_registry = pytest.mark.skipif(not WHOLE.is_file(), reason="the whole registry is not here")
TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT64", "INT32", "UINT8", "INT8", "BOOL")


@cache
def registry() -> list[Any]:
    rows: list[Any] = json.loads(WHOLE.read_text())
    return [row for row in rows if row[1] == ""]


def test_the_table_is_of_the_onnxruntime_installed_here() -> None:
    assert kernel_table().onnxruntime == onnxruntime.__version__


def test_the_table_has_one_operator_a_line() -> None:
    first, *lines, last = TABLE.read_text().splitlines()
    assert first.endswith('"kernels": {')
    assert last == "}}"
    assert [line.split('"')[1] for line in lines] == sorted(kernel_table().kernels)


def test_an_open_ended_kernel_serves_its_first_version_only() -> None:
    assert [v for v in range(9, 25) if Kernel(12, None, {}).serves(v)] == [12]
    assert [v for v in range(9, 25) if Kernel(12, 14, {}).serves(v)] == [12, 13, 14]


def test_rows_are_united_only_where_nothing_is_lost() -> None:
    def rows(*kernels: dict[str, list[str]]) -> list[Any]:
        return [("CUDAExecutionProvider", "", "Op", (1, 2**31 - 1), types) for types in kernels]

    def united(*kernels: dict[str, list[str]]) -> Any:
        return json.loads(compact(rows(*kernels), "1"))["kernels"]["Op"]

    square = [{"A": [f"tensor({a})"], "B": [f"tensor({b})"]} for a in "pq" for b in "rs"]
    assert united(*square) == [[1, None, {"A": "p q", "B": "r s"}]]
    diagonal = [square[0], square[3]]
    assert united(*diagonal) == [[1, None, {"A": "p", "B": "r"}], [1, None, {"A": "q", "B": "s"}]]
    foreign = [("CPUExecutionProvider", "", "Op", (1, 1), {}), *rows({})]
    foreign[1] = ("CUDAExecutionProvider", "com.microsoft", "Op", (1, 1), {})
    assert json.loads(compact(foreign, "1"))["kernels"] == {}


@needs_registry
def test_the_table_says_what_the_registry_says() -> None:
    def combinations(types: dict[str, list[str]]) -> set[tuple[tuple[str, str], ...]]:
        names = sorted(types)
        return {
            tuple(zip(names, chosen, strict=True))
            for chosen in itertools.product(*(types[name] for name in names))
        }

    expected: set[Any] = set()
    for _, _, op, (first, last), types in registry():
        short = {
            name: [t.removeprefix("tensor(").removesuffix(")") if t[0] == "t" else t for t in some]
            for name, some in types.items()
        }
        expected |= {(op, first, last, one) for one in combinations(short)}
    found = {
        (op, kernel.first, kernel.last or 2**31 - 1, one)
        for op, kernels in kernel_table().kernels.items()
        for kernel in kernels
        for one in combinations({name: sorted(some) for name, some in kernel.types.items()})
    }
    assert found == expected
    assert compact(json.loads(WHOLE.read_text()), "1.31.1") == TABLE.read_text()


def _has_kernel(op: str, opset: int, dtype: str) -> bool:
    """A second, naive reading of the registry for an operator whose one parameter is `T`."""
    version = onnx.defs.get_schema(op, opset).since_version
    for _, _, name, (first, last), types in registry():
        bounded = first < version <= last and last != 2147483647
        if name == op and (first == version or bounded) and f"tensor({dtype})" in types["T"]:
            return True
    return False


UNARY = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "GlobalAveragePool"),
    *("HardSigmoid", "HardSwish", "LeakyRelu", "Log", "LogSoftmax", "Neg", "Reciprocal", "Relu"),
    *("Round", "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Tan", "Tanh"),
    *("Acos", "Atan", "Cosh", "Hardmax", "Softsign", "GlobalMaxPool", "Transpose"),
)


@needs_registry
@pytest.mark.parametrize("op", UNARY)
def test_verdicts_agree_with_a_second_reading(op: str) -> None:
    seen = set()
    for opset, dtype in itertools.product((13, 16, 18, 21, 22, 23), TYPES):
        if not onnx.defs.has(op, opset):  # HardSwish came with 14
            continue
        schema = onnx.defs.get_schema(op, opset)
        (allowed,) = (
            one.allowed_type_strs for one in schema.type_constraints if one.type_param_str == "T"
        )
        if f"tensor({dtype.lower()})" not in allowed or (schema.since_version, dtype) in seen:
            continue
        seen.add((schema.since_version, dtype))
        number = onnx.TensorProto.DataType.Value(dtype)
        nodes = [onnx.helper.make_node(op, ["x"], ["y"], name="one")]
        small = model(nodes, opset=opset, inputs={"x": (number, ("N", 3, 8, 8))})
        answer, fallbacks = table_placement(small.SerializeToString())
        judged = {one.op for one in fallbacks}
        if not (answer.nodes == 1 or judged):  # decomposed, for want of a kernel on the CPU
            continue
        expected = set() if _has_kernel(op, opset, dtype.lower()) else {op}
        assert judged == expected, (opset, dtype, fallbacks)
    assert len(seen) > 1
