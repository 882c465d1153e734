"""The reader of model files against the onnx package, and against what is no model."""

import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from prn_guard.artifact import check_model, read_artifact
from prn_guard.errors import ArtifactError
from prn_guard.model_file import MAX_DEPTH, read_model_facts

texts = st.text(max_size=4)
domains = st.sampled_from(["", "ai.onnx", "com.microsoft", "ai.onnx.ml", "ä"])


@st.composite
def tensors(draw):
    tensor = TensorProto(name=draw(texts), dims=draw(st.lists(st.integers(0, 3), max_size=2)))
    tensor.data_type = draw(st.sampled_from([1, 6, 7, 10, 11]))
    where = draw(st.sampled_from(["raw", "floats", "doubles", "ints", "external", "nowhere"]))
    if where == "raw":
        tensor.raw_data = draw(st.binary(max_size=9))
    elif where == "floats":
        tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    elif where == "doubles":
        tensor.double_data.extend(draw(st.lists(st.floats(), max_size=3)))
    elif where == "ints":
        tensor.int64_data.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
    elif where == "external":
        tensor.external_data.add(key="location", value="weights.bin")
        if draw(st.booleans()):
            tensor.data_location = TensorProto.EXTERNAL
    return tensor


@st.composite
def sparse_tensors(draw):
    return onnx.SparseTensorProto(values=draw(tensors()), indices=draw(tensors()), dims=[2])


def attributes(graphs):
    return st.builds(
        AttributeProto,
        name=texts,
        t=tensors() | st.none(),
        sparse_tensor=sparse_tensors() | st.none(),
        g=graphs | st.none(),
        graphs=st.lists(graphs, max_size=1),
        tensors=st.lists(tensors(), max_size=1),
        sparse_tensors=st.lists(sparse_tensors(), max_size=1),
        i=st.integers(-(2**63), 2**63 - 1),
        ints=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2),
        f=st.floats(width=32),
    )


def nodes(graphs):
    return st.builds(
        NodeProto,
        op_type=texts,
        domain=domains,
        attribute=st.lists(attributes(graphs), max_size=2),
    )


graphs = st.recursive(
    st.builds(GraphProto, name=texts, initializer=st.lists(tensors(), max_size=2)),
    lambda inner: st.builds(
        GraphProto,
        name=texts,
        initializer=st.lists(tensors(), max_size=1),
        sparse_initializer=st.lists(sparse_tensors(), max_size=1),
        node=st.lists(nodes(inner), max_size=2),
    ),
    max_leaves=3,
)


@st.composite
def models(draw):
    sets = draw(st.dictionaries(domains, st.integers(0, 2**63 - 1), max_size=3))
    if "" in sets:
        sets.pop("ai.onnx", None)
    function = st.builds(
        onnx.FunctionProto,
        domain=domains,
        node=st.lists(nodes(graphs), max_size=1),
        attribute_proto=st.lists(attributes(graphs), max_size=1),
        opset_import=st.lists(st.builds(onnx.OperatorSetIdProto, domain=domains), max_size=1),
    )
    training = st.builds(onnx.TrainingInfoProto, initialization=graphs, algorithm=graphs)
    return ModelProto(
        ir_version=draw(st.none() | st.integers(0, 2**63 - 1)),
        producer_name=draw(texts),
        opset_import=[helper.make_opsetid(*pair) for pair in sets.items()],
        graph=draw(graphs),
        functions=draw(st.lists(function, max_size=1)),
        training_info=draw(st.lists(training, max_size=1)),
    )


def messages_in(message):
    """The message and every message inside it, by protobuf's own reflection."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in value if descriptor.is_repeated else [value]:
                yield from messages_in(child)


def standard(domain):
    return "" if domain == "ai.onnx" else domain


@settings(max_examples=150, deadline=None)
@given(models())
def test_agrees_with_onnx(model):
    facts = read_model_facts(model.SerializeToString())
    inside = list(messages_in(model))
    named = (onnx.NodeProto, onnx.OperatorSetIdProto, onnx.FunctionProto)
    # A domain that is not written down at all is the standard one of nodes and sets.
    found = {standard(part.domain) for part in inside if isinstance(part, named)} | {""}
    assert facts.domains | {""} == found
    assert facts.ir_version == (model.ir_version if model.HasField("ir_version") else None)
    assert facts.opsets == {standard(one.domain): one.version for one in model.opset_import}
    operators = {part.op_type for part in inside if isinstance(part, NodeProto)}
    assert facts.operators - {""} == operators - {""}
    assert facts.functions == len(model.functions)
    all_tensors = [part for part in inside if isinstance(part, TensorProto)]
    external = [
        part
        for part in all_tensors
        if part.external_data or part.data_location == TensorProto.EXTERNAL
    ]
    assert facts.external_tensors == len(external)


def test_values_are_found_where_they_lie():
    arrays = [np.arange(5, dtype=kind) for kind in (np.float32, np.float16, np.float64)]
    raw = [onnx.numpy_helper.from_array(array) for array in arrays]
    packed = helper.make_tensor("p", TensorProto.FLOAT, [3], [1.5, -2.5, np.inf])
    graph = helper.make_graph([], "g", [], [], [*raw, packed])
    content = helper.make_model(graph).SerializeToString()
    values = read_model_facts(content).values
    found = {(one.data_type, content[one.start : one.end]) for one in values}
    expected = {(tensor.data_type, tensor.raw_data) for tensor in raw}
    assert found == expected | {(1, np.array([1.5, -2.5, np.inf], "<f4").tobytes())}


@pytest.fixture
def content(folder):
    return (folder / "guarded.onnx").read_bytes()


def test_every_truncation_is_refused(folder, content):
    manifest, graph = read_artifact(folder)
    assert graph == content
    place = folder / "guarded.onnx"
    for length in range(len(content)):
        with pytest.raises(ArtifactError, match=r"guarded\.onnx.*[Ee]xport the guard anew"):
            check_model(content[:length], manifest, place)


def test_any_bytes_are_read_or_refused(content):
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            changed[place] = rng.integers(256)
        try:
            read_model_facts(bytes(changed))
        except ArtifactError as error:
            assert "byte" in str(error) or "twice" in str(error)  # noqa: PT017 - both are right


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x08", "does not end"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x0b", "no wire type 3"),
        (b"\x0f", "no wire type 7"),
        (b"\x00\x00", "no field number 0"),
        (b"\x80\x80\x80\x80\x10\x00", "no field number"),
        (b"\x0a\x01a", "field 1 of the model"),
        (b"\x38\x01", "field 7 of the model"),
        (b"\x3a\x7f", "states 127 bytes where 0 are left"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "are left"),
        (b"\x42\x02\x10\x14\x42\x02\x10\x15", "stated twice"),
        (b"\x42\x02\x10\x14\x42\x0b\x0a\x07ai.onnx\x10\x14", "stated twice"),
        (b"\x42\x02\x12\x00", "field 2 of the operator set"),
        (b"\x15\x00\x00\x00", "states 4 bytes where 3"),
    ],
)
def test_malformed_bytes_are_refused(content, said):
    with pytest.raises(ArtifactError, match=said):
        read_model_facts(content)


def test_unknown_fields_are_passed_over():
    facts = read_model_facts(b"\xf8\x3f\x01\xfa\x3f\x02ab\xfd\x3f1234\xf9\x3f12345678\x08\x09")
    assert facts.ir_version == 9


def nested(depth):
    """A graph in an attribute of a node in a graph, and so on: three messages a round."""
    graph = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            graph = tag + varint(len(graph)) + graph
    return b"\x3a" + varint(len(graph)) + graph


def varint(value):
    text = bytearray()
    while value > 0x7F:
        text.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*text, value])


def test_nesting_is_bounded():
    read_model_facts(nested((MAX_DEPTH - 1) // 3))
    for depth in (MAX_DEPTH // 3 + 1, 5000):
        with pytest.raises(ArtifactError, match="nest deeper than 100"):
            read_model_facts(nested(depth))


def test_number_of_fields_is_bounded(monkeypatch):
    monkeypatch.setattr("prn_guard.model_file.MAX_FIELDS", 1000)
    empty_nodes = b"\x0a\x00" * 1000
    with pytest.raises(ArtifactError, match="more than 1000 fields"):
        read_model_facts(b"\x3a" + varint(len(empty_nodes)) + empty_nodes)


def test_a_million_fields_is_the_most():
    with pytest.raises(ArtifactError, match="more than 1000000 fields"):
        read_model_facts(b"\xf8\x3f\x01" * 1_000_001)


def test_time_is_linear():
    """Eight times the file, about eight times the time; 64 times would be quadratic."""

    def seconds(count):
        node = NodeProto(op_type="Relu", input=["a"], output=["b"])
        model = ModelProto(graph=GraphProto(node=[node] * count)).SerializeToString()
        begin = time.perf_counter()
        read_model_facts(model)
        return time.perf_counter() - begin

    small = min(seconds(2_000) for _ in range(3))
    large = min(seconds(16_000) for _ in range(3))
    assert large < 24 * small


@pytest.mark.parametrize("value", [1, 2, 1 << 32 | 1, 2**64 - 1])
def test_any_place_but_the_file_itself_counts_as_outside(value):
    place = b"\x70" + varint(value)
    tensor = b"\x2a" + varint(len(place)) + place
    facts = read_model_facts(b"\x3a" + varint(len(tensor)) + tensor)
    assert facts.external_tensors == 1


def test_the_first_of_several_places_counts_too():
    both = b"\x70\x01\x70\x00"
    tensor = b"\x2a" + varint(len(both)) + both
    facts = read_model_facts(b"\x3a" + varint(len(tensor)) + tensor)
    assert facts.external_tensors == 1
