"""Arithmetic on shapes: what folds away, what onnxruntime leaves to the CPU, what stays."""

import numpy as np
import pytest
from onnx import numpy_helper

from tests.export.small_graphs import FLATTEN, FLOAT, HALF, falls, model, node, ops


def test_arithmetic_on_shapes_is_left_to_the_cpu() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        node("Shape", "t", "s"),
        node("Mul", "s s", "area"),
        node("Cast", "area", "f", to=FLOAT),
        node("ReduceSum", "f", "total"),
        node("Relu", "x", "r"),
        node("Add", "r total", "y"),
    ]
    found = falls(model(nodes))
    # The transposition is computed on the shape instead of the picture: a Gather of four numbers.
    assert [one.op for one in found] == ["Gather", "Mul", "Cast", "ReduceSum"]
    assert {one.reason for one in found} == {
        "shape arithmetic, which onnxruntime leaves to the CPU"
    }


def test_arithmetic_that_folds_away_is_not_reported() -> None:
    flatten = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n zeros", "row"),
        node("Concat", "row rest", "to", axis=0),
        node("Reshape", "x to", "y"),
    ]
    assert ops(model(flatten, weights=FLATTEN)) == []
    fixed = {"x": (FLOAT, (2, 3, 8, 8))}
    static = [node("Shape", "x", "s"), node("Mul", "s s", "p"), node("Tile", "x p", "y")]
    assert ops(model(static, inputs=fixed)) == []
    assert ops(model(static)) == ["Mul"]


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_shape_arithmetic_on_half_precision_stays_on_the_gpu(dtype: int) -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "f", to=dtype),
        node("Mul", "f f", "y"),
    ]
    assert ops(model(nodes)) == (["Cast"] if dtype == HALF else ["Cast", "Mul"])


def test_large_constants_are_no_shape_arithmetic() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Mul", "many n", "y"),
    ]
    weights = {"zero": np.int64(0), "many": np.ones(101, np.int64)}
    assert ops(model(nodes, weights=weights)) == ["Gather"]
    assert ops(model(nodes, weights={**weights, "many": np.ones(100, np.int64)})) == [
        "Gather",
        "Mul",
    ]
    assert numpy_helper.to_array(model(nodes, weights=weights).graph.initializer[1]).size == 101


def test_the_graphs_input_counts_as_small_and_the_cpu_passes_on() -> None:
    total = [
        node("Shape", "x", "s"),
        node("Cast", "s", "f", to=FLOAT),
        node("Tan", "f", "t"),
        node("ReduceSum", "t", "total"),
    ]
    through = ["Cast", "Tan", "ReduceSum"]  # Tan has no kernel, what follows it would have one
    assert ops(model([*total, node("Add", "x total", "y")])) == [*through, "Add"]
    relu = [node("Relu", "x", "r"), node("Add", "r total", "y")]
    assert ops(model([*total, *relu])) == through
