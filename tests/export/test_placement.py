"""Which nodes would leave the GPU: hand-made graphs, real ones, and what is no graph."""

import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from export.placement import Fallback, judge, session_placement, table_placement
from export.tensor_types import adopt_halves
from prn_guard.errors import ArtifactError
from tests.export.small_graphs import (
    BOOL,
    DOUBLE,
    FLATTEN,
    FLOAT,
    HALF,
    INT32,
    INT64,
    falls,
    model,
    node,
    ops,
)

MODELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet_models"
PICTURES = ("N", 3, 8, 8)
NUMPY = {FLOAT: np.float32, HALF: np.float16}


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_what_classifiers_are_made_of_stays_on_the_gpu(opset: int, dtype: int) -> None:
    kind = NUMPY[dtype]
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c one one one one", "n"),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "m", kernel_shape=[2, 2]),
        node("DepthToSpace", "m", "d", blocksize=2),
        node("AveragePool", "d", "v", kernel_shape=[2, 2]),
        node("GlobalAveragePool", "v", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f k", "logits"),
        node("ArgMax", "logits", "label", axis=1, keepdims=0),
        node("Greater", "logits zero", "above"),
        node("Where", "above logits zero", "y"),
    ]
    weights = {
        "w": np.ones((4, 3, 3, 3), kind),
        "one": np.ones(4, kind),
        "k": np.ones((1, 5), kind),
        "zero": np.zeros((), kind),
    }
    small = model(
        nodes,
        opset=opset,
        inputs={"x": (dtype, PICTURES)},
        outputs=("y", "label"),
        weights=weights,
    )
    answer, fallbacks = table_placement(small.SerializeToString())
    assert fallbacks == ()
    assert answer.basis == "kernel table"
    assert answer.onnxruntime == "1.31.1"
    # onnxruntime computes the normalisation inside the convolution.
    assert answer.nodes in {len(nodes), len(nodes) - 1}


@pytest.mark.parametrize(("opset", "fallen"), [(13, []), (21, []), (22, ["MaxPool"])])
def test_max_pooling_leaves_the_gpu_from_opset_22_on(opset: int, fallen: list[str]) -> None:
    pooling = model([node("MaxPool", "x", "y", kernel_shape=[2, 2])], opset=opset)
    found = falls(pooling)
    assert [one.op for one in found] == fallen
    if found:
        reason = "CUDA kernels up to version 12 of this operator, not for 22"
        assert found == (Fallback("MaxPool_y", "MaxPool", "", 22, "T=float", reason),)


@pytest.mark.parametrize(
    ("dtype", "fallen"), [(FLOAT, []), (HALF, []), (DOUBLE, []), (INT64, ["ArgMax"])]
)
def test_the_label_is_taken_on_the_gpu_from_floats_only(dtype: int, fallen: list[str]) -> None:
    inputs = {"x": (dtype, ("N", 10))}
    assert ops(model([node("ArgMax", "x", "y", axis=1)], inputs=inputs)) == fallen


def test_types_that_no_kernel_takes_together_fall_back() -> None:
    def one_hot(indices: int, values: Any) -> list[str]:
        return ops(
            model(
                [node("OneHot", "x depth values", "y")],
                inputs={"x": (indices, ("N",)), "depth": (indices, ())},
                weights={"values": values},
            )
        )

    floats, integers = np.zeros(2, np.float32), np.zeros(2, np.int64)
    assert one_hot(INT64, floats) == one_hot(INT32, floats) == one_hot(INT64, integers) == []
    assert one_hot(INT32, integers) == ["OneHot"]


def test_casts_between_precisions_are_judged_with_their_own_types() -> None:
    nodes = [
        node("Cast", "x", "h", to=HALF),
        node("HardSwish", "h", "s"),
        node("Mul", "s w", "m"),
        node("Softmax", "m", "p"),
        node("Cast", "p", "f", to=FLOAT),
        node("Tan", "f", "t"),
        node("Shape", "t", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n zeros", "row"),
        node("Concat", "row rest", "to", axis=0),
        node("Reshape", "t to", "y"),
    ]
    mixed = model(nodes, weights={"w": np.ones(8, np.float16), **FLATTEN})
    answer, fallbacks = table_placement(mixed.SerializeToString())
    assert answer.nodes == 7  # the last four become one Reshape, and HardSwish stays whole
    assert [(one.op, one.types) for one in fallbacks] == [("Tan", "T=float")]
    integers = model([node("Cast", "x", "h", to=HALF), node("BitShift", "h h", "y")])
    assert ops(integers) == ["BitShift"]


def test_half_precision_is_seen_where_only_a_cast_makes_it() -> None:
    bfloat16 = onnx.TensorProto.BFLOAT16
    nodes = [node("Cast", "x", "h", to=bfloat16), node("Log", "h", "e"), node("Log", "x", "f")]
    small = model([*nodes, node("Cast", "e", "y", to=FLOAT)], outputs=("y", "f"))
    assert [(one.op, one.types) for one in falls(small)] == [("Log", "T=bfloat16")]


def test_attributes_that_the_kernels_lack() -> None:
    def transposed(**attributes: Any) -> list[str]:
        weights = {"w": np.ones((3, 2, 3, 3), np.float32)}
        return ops(model([node("ConvTranspose", "x w", "y", **attributes)], weights=weights))

    assert transposed() == transposed(pads=[1, 1, 1, 1]) == []
    assert transposed(pads=[0, 0, 1, 1]) == transposed(auto_pad="SAME_UPPER") == ["ConvTranspose"]
    assert ops(model([node("ArgMax", "x", "y", select_last_index=1)])) == ["ArgMax"]
    assert ops(model([node("ArgMax", "x", "y", select_last_index=0)])) == []


def test_branches_and_functions_count() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{op}_y", FLOAT, None)
        return helper.make_graph([node(op, "x", f"{op}_y")], op, [], [out])

    inputs = {"x": (FLOAT, PICTURES), "c": (BOOL, ())}
    choice = node("If", "c", "y", then_branch=branch("Relu"), else_branch=branch("Tan"))
    answer, found = table_placement(model([choice], inputs=inputs).SerializeToString())
    assert [one.node for one in found] == ["If_y/Tan_Tan_y"]
    assert answer.nodes == 3
    function = helper.make_function(
        "local", "f", ["a"], ["b"], [node("Tan", "a", "b")], [helper.make_opsetid("", 20)]
    )
    call = helper.make_node("f", ["x"], ["y"], domain="local")
    assert ops(model([call], functions=[function], domains=["local"])) == ["Tan"]


def test_unknown_operators_are_reported_and_what_follows_is_judged() -> None:
    foreign = helper.make_node("Magic", ["x"], ["m"], domain="acme")
    nodes = [
        foreign,
        node("Constant", "", "one", value_float=1.0),
        node("Neg", "one", "minus"),
        node("Mul", "m minus", "y"),
    ]
    answer, found = table_placement(model(nodes, domains=["acme"]).SerializeToString())
    assert [(one.node, one.domain, one.since_version) for one in found] == [("m", "acme", 0)]
    assert "'acme'" in found[0].reason
    assert answer.nodes == 2
    invented = model([node("Wizardry", "x", "y")])
    assert [one.since_version for one in falls(invented)] == [0]


def test_only_plain_files_of_a_graphs_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match=r"no plain file.*Name an artifact folder or an \.onnx"):
        judge(tmp_path / "pipe.onnx", "table")
    with (tmp_path / "huge.onnx").open("wb") as stream:
        stream.truncate(40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.placement.MAX_GRAPH_BYTES", 39)
        with pytest.raises(ArtifactError, match="larger than 39 bytes"):
            judge(tmp_path / "huge.onnx", "table")


def test_weights_in_other_files_are_never_read() -> None:
    small = model(
        [node("Conv", "x w", "c"), node("MaxPool", "c", "y", kernel_shape=[2, 2])],
        opset=22,
        weights={"w": np.ones((4, 3, 3, 3), np.float32)},
    )
    small.graph.initializer[0].ClearField("raw_data")
    small.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    for location in ("absent.bin", "../up.bin", "/etc/hostname"):
        del small.graph.initializer[0].external_data[:]
        entry = small.graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", location
        answer, found = table_placement(small.SerializeToString())
        assert (answer.nodes, [one.op for one in found]) == (2, ["MaxPool"])


@pytest.mark.parametrize("content", [b"", b"\x00", b"no model", b"\x08\x07", b"\xff" * 99])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    for place in (table_placement, session_placement):
        with pytest.raises(ArtifactError, match=r"ONNX model.* [Ee]xport it anew|onnxruntime does"):
            place(content)


def test_truncated_files_are_refused_or_judged() -> None:
    whole = model([node("Relu", "x", "y")]).SerializeToString()
    for length in range(len(whole)):
        try:
            answer, _ = table_placement(whole[:length])
        except ArtifactError:
            continue
        assert answer.nodes == 1


def test_damaged_files_are_refused_or_judged() -> None:
    nodes = [
        node("Cast", "x", "h", to=HALF),
        node("Mul", "h w", "m"),
        node("ConvTranspose", "m k", "t", pads=[0, 0, 1, 1]),
        node("Shape", "t", "s"),
        node("Mul", "s s", "y"),
    ]
    weights = {"w": np.ones(8, np.float16), "k": np.ones((3, 2, 2, 2), np.float16)}
    whole = model(nodes, weights=weights).SerializeToString()
    draws, judged = random.Random(1), 0  # noqa: S311 - no secret
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draws.choice([1, 2, 5])):
            damaged[draws.randrange(len(whole))] = draws.randrange(256)
        with contextlib.suppress(ArtifactError):
            judged += table_placement(bytes(damaged))[0].nodes > 0
    assert judged > 20


def test_a_graph_of_constants_computes_nothing() -> None:
    constant = model([node("Constant", "", "c", value_float=1.0), node("Neg", "c", "y")])
    with pytest.raises(ArtifactError, match="computes nothing"):
        falls(constant)


@pytest.mark.skipif(not MODELS.is_dir(), reason="the ImageNet models are not here")
@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet"])
def test_classifiers_in_service_stay_on_the_gpu(name: str) -> None:
    content = (MODELS / f"{name}_imagenet.onnx").read_bytes()
    start = time.perf_counter()
    answer, fallbacks = table_placement(content)
    assert time.perf_counter() - start < 1
    assert fallbacks == ()
    assert answer.nodes > 60


def test_a_pair_of_types_is_named_as_such() -> None:
    small = model(
        [node("OneHot", "x depth values", "y")],
        inputs={"x": (INT32, ("N",)), "depth": (INT32, ())},
        weights={"values": np.zeros(2, np.int64)},
    )
    (found,) = falls(small)
    assert found.reason.startswith("CUDA kernels only for T1 in int32 int64, T2 in int32 int64")


def test_a_branch_sees_the_types_around_it() -> None:
    out = helper.make_empty_tensor_value_info("b")
    branches = [
        helper.make_graph([helper.make_node("ArgMax", ["z"], ["b"], name=name)], name, [], [out])
        for name in ("one", "two")
    ]
    choice = node("If", "c", "y", then_branch=branches[0], else_branch=branches[1])
    for dtype, expected in ((INT64, ["ArgMax", "ArgMax"]), (FLOAT, [])):
        inputs = {"x": (dtype, ("N", 9)), "c": (BOOL, ())}
        assert ops(model([node("Neg", "x", "z"), choice], inputs=inputs)) == expected


def test_nameless_tensors_take_the_half_precision_of_their_partners() -> None:
    add = node("Add", "h new", "sum")
    schema = onnx.defs.get_schema("Add", 20)
    types = {"h": "float16", "new": "float", "sum": "float16"}
    adopt_halves(add, schema, types, {"h": HALF, "sum": HALF})
    assert types["new"] == "float16"
    types["new"] = "float"
    adopt_halves(add, schema, types, {"h": HALF, "sum": HALF, "new": FLOAT})
    assert types["new"] == "float"


def test_random_numbers_do_not_fold() -> None:
    foreign = helper.make_node("Magic", ["x"], ["m"], domain="acme")
    nodes = [foreign, node("RandomNormal", "", "r", shape=[1]), node("Add", "m r", "y")]
    answer, _ = table_placement(model(nodes, domains=["acme"]).SerializeToString())
    assert answer.nodes == 3
