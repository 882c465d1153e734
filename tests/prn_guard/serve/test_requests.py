"""Infer requests out of bytes: what the protocol says is read, anything else is one error."""

import contextlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prn_guard.contract import InputTensor, Manifest
from prn_guard.serve.errors import MalformedError, TooLargeError
from prn_guard.serve.requests import parse_request
from tests.prn_guard.serve.running import binary_body, infer_body
from tests.prn_guard.tiny import tiny_manifest, tiny_spec

SHAPE = (2, 8, 8, 3)
PICTURES = np.random.default_rng(5).integers(0, 256, SHAPE, dtype=np.uint8)


def manifest_of(dtype="uint8", layout="nhwc"):
    record = Manifest.model_validate_json(json.dumps(tiny_manifest(tiny_spec(), b"graph")))
    tensor = InputTensor(name="image", dtype=dtype, layout=layout)
    return record.model_copy(update={"tensor": tensor})


PIXELS = manifest_of()
FLOATS = manifest_of("float32", "nchw")


def parse(body, header=None, manifest=PIXELS):
    return parse_request(body, header, manifest, max_pictures=10)


def changed(**tensor):
    content = json.loads(infer_body(PICTURES))
    content["inputs"][0].update(tensor)
    return {k: v for k, v in content["inputs"][0].items() if v is not None}


def with_tensor(**tensor):
    return json.dumps({"inputs": [changed(**tensor)]}).encode()


def float_body(values, **changes):
    tensor = {"name": "image", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": values} | changes
    return json.dumps({"inputs": [tensor]}).encode()


def test_flat_and_nested_numbers_and_bytes_are_the_same_pictures():
    nested = with_tensor(data=PICTURES.tolist())
    for asked in (parse(infer_body(PICTURES)), parse(nested), parse(*binary_body(PICTURES))):
        assert asked.values.dtype == np.uint8
        np.testing.assert_array_equal(asked.values, PICTURES)
        assert (asked.id, asked.outputs, asked.binary, asked.timeout) == ("", None, False, None)


def test_floats_come_as_they_were_wherever_they_start():
    values = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    as_numbers = parse(float_body(values.ravel().tolist()), manifest=FLOATS).values
    np.testing.assert_array_equal(as_numbers, values)
    for padding in range(4):  # the bytes begin at any address
        parameters = {"binary_data_size": values.nbytes, "x": "x" * padding}
        text = float_body(None, parameters=parameters).replace(b'"data": null, ', b"")
        asked = parse(text + values.tobytes(), str(len(text)), FLOATS)
        np.testing.assert_array_equal(asked.values, values)
        assert asked.values.flags["ALIGNED"]


def test_whole_numbers_are_floats_too():
    asked = parse(float_body([1] * 192), manifest=FLOATS)
    assert asked.values.dtype == np.float32
    assert (asked.values == 1).all()


def test_what_is_asked_beside_the_tensor_is_read():
    outputs = [
        {"name": "label"},
        {"name": "score", "parameters": {"binary_data": False, "classification": 0}},
    ]
    asked = parse(
        infer_body(
            PICTURES,
            id="mine",
            outputs=outputs,
            parameters={"binary_data_output": True, "timeout": 250_000, "priority": 3},
        )
    )
    assert asked.id == "mine"
    assert dict(asked.outputs) == {"label": True, "score": False}
    assert asked.binary is True
    assert asked.timeout == pytest.approx(0.25)
    assert parse(infer_body(PICTURES, outputs=[])).outputs is None
    assert parse(infer_body(PICTURES, parameters={"timeout": 0})).timeout is None
    assert parse(infer_body(PICTURES, parameters={"timeout": "1000000"})).timeout == 1


REFUSED = {
    "no JSON": b"surely not",
    "no UTF-8": b'{"inputs": "\xff"}',
    "nothing": b"",
    "half": infer_body(PICTURES)[:-3],
    "two": infer_body(PICTURES) + b"{}",
    "list": b"[]",
    "number": b"7",
    "NaN": b'{"inputs": [], "x": NaN}',
    "deep": b'{"inputs": ' + b"[" * 200_000,
    "deep objects": b'{"inputs": ' + b'{"a": ' * 200_000,
    "deep and whole": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "key twice": b'{"inputs": [], "inputs": []}',
    "digits": b'{"inputs": [], "x": ' + b"9" * 5000 + b"}",
    "no inputs": b"{}",
    "empty inputs": b'{"inputs": []}',
    "two inputs": json.dumps({"inputs": [changed(), changed()]}).encode(),
    "input no object": b'{"inputs": [3]}',
    "inputs no list": json.dumps({"inputs": changed()}).encode(),
    "name": with_tensor(name="picture"),
    "name no text": with_tensor(name=3),
    "no name": with_tensor(name=None),
    "datatype": with_tensor(datatype="FP32"),
    "datatype unknown": with_tensor(datatype="BYTES"),
    "datatype no text": with_tensor(datatype=["UINT8"]),
    "no shape": with_tensor(shape=None),
    "shape text": with_tensor(shape="2,8,8,3"),
    "shape floats": with_tensor(shape=[2.0, 8, 8, 3]),
    "shape booleans": with_tensor(shape=[True, 8, 8, 3]),
    "shape negative": with_tensor(shape=[-2, 8, 8, 3]),
    "shape zero": with_tensor(shape=[0, 8, 8, 3], data=[]),
    "shape huge": with_tensor(shape=[2, 8, 8, 10**40]),
    "shape rank": with_tensor(shape=[8, 8, 3]),
    "shape layout": with_tensor(shape=[2, 3, 8, 8]),
    "shape long": with_tensor(shape=[1] * 10_000),
    "no data": with_tensor(data=None),
    "data text": with_tensor(data="7" * PICTURES.size),
    "data object": with_tensor(data={"0": 1}),
    "data short": with_tensor(data=PICTURES.ravel().tolist()[1:]),
    "data empty": with_tensor(data=[]),
    "data ragged": with_tensor(data=[[1, 2], [3]]),
    "data strings": with_tensor(data=["1"] * PICTURES.size),
    "data nulls": with_tensor(data=[None] * PICTURES.size),
    "data one boolean": with_tensor(data=[True] + [1] * (PICTURES.size - 1)),
    "data booleans": with_tensor(data=[True] * PICTURES.size),
    "data floats": with_tensor(data=[1.5] * PICTURES.size),
    "data negative": with_tensor(data=[-1] * PICTURES.size),
    "data 256": with_tensor(data=[256] * PICTURES.size),
    "data huge": with_tensor(data=[10**30] * PICTURES.size),
    "data mixed": with_tensor(data=[1, "a"] * (PICTURES.size // 2)),
    "data other nesting": with_tensor(data=PICTURES.reshape(2, 3, 8, 8).tolist()),
    "data deep": with_tensor(data=[[[[[[1]]]]]]),
    "data very deep": json.dumps({"inputs": [changed(data=[])]})
    .replace("[]", "[" * 400 + "1" + "]" * 400)
    .encode(),
    "parameters list": with_tensor(parameters=[1]),
    "shared memory": with_tensor(data=None, parameters={"shared_memory_region": "x"}),
    "id number": infer_body(PICTURES, id=3),
    "id long": infer_body(PICTURES, id="x" * 257),
    "id surrogate": infer_body(PICTURES).replace(b'{"inputs"', b'{"id": "\\ud800", "inputs"'),
    "timeout negative": infer_body(PICTURES, parameters={"timeout": -1}),
    "timeout text": infer_body(PICTURES, parameters={"timeout": "soon"}),
    "timeout true": infer_body(PICTURES, parameters={"timeout": True}),
    "timeout infinite": infer_body(PICTURES, parameters={"timeout": 7}).replace(b"7}", b"1e999}"),
    "binary no flag": infer_body(PICTURES, parameters={"binary_data_output": 1}),
    "outputs no list": infer_body(PICTURES, outputs={"name": "label"}),
    "output no object": infer_body(PICTURES, outputs=["label"]),
    "output no name": infer_body(PICTURES, outputs=[{}]),
    "output twice": infer_body(PICTURES, outputs=[{"name": "label"}] * 2),
    "outputs many": infer_body(PICTURES, outputs=[{"name": str(n)} for n in range(300)]),
    "output class": infer_body(
        PICTURES, outputs=[{"name": "logits", "parameters": {"classification": 3}}]
    ),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_malformed(body):
    with pytest.raises(MalformedError) as refused:
        parse(body)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("shift", [-1, 1])
def test_more_or_fewer_bytes_than_stated_are_malformed(shift):
    body, header = binary_body(PICTURES)
    longer = body + b"x" if shift > 0 else body[:-1]
    with pytest.raises(MalformedError, match="bytes follow"):
        parse(longer, header)
    with pytest.raises(MalformedError):
        parse(body, str(int(header) + shift))


@pytest.mark.parametrize(
    "header", ["", "-1", "1e3", "0x10", "+5", "٣", "999999", "9" * 400, "1.0", "5 5", "NaN"]
)
def test_header_lengths_that_are_none(header):
    with pytest.raises(MalformedError):
        parse(binary_body(PICTURES)[0], header)


@pytest.mark.parametrize("size", [-1, 383, 385, 384.0, "384", True, None, [384], 10**30])
def test_binary_sizes_that_are_none(size):
    body, _ = binary_body(PICTURES)
    text, _, raw = body.partition(b"}]}")
    text = (text + b"}]}").replace(b": 384", b": " + json.dumps(size).encode())
    with pytest.raises(MalformedError):
        parse(text + raw, str(len(text)))


def test_bytes_and_numbers_at_once_are_malformed():
    tensor = changed(parameters={"binary_data_size": PICTURES.nbytes})
    text = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(MalformedError, match="both"):
        parse(text + PICTURES.tobytes(), str(len(text)))


def test_more_pictures_than_may_wait_are_too_large():
    with pytest.raises(TooLargeError, match="at most 10"):
        parse(infer_body(np.zeros((11, 8, 8, 3), np.uint8)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(value):
    values = np.zeros((1, 3, 8, 8), np.float32)
    values[0, 1, 2, 3] = value
    text = float_body(None, parameters={"binary_data_size": values.nbytes})
    text = text.replace(b'"data": null, ', b"")
    with pytest.raises(MalformedError, match="not finite"):
        parse(text + values.tobytes(), str(len(text)), FLOATS)
    with pytest.raises(MalformedError):
        parse(float_body(values.ravel().tolist()), manifest=FLOATS)


def test_floats_beyond_float32_are_refused():
    with pytest.raises(MalformedError, match="not finite"):
        parse(float_body([1e39] * 192), manifest=FLOATS)
    with pytest.raises(MalformedError):
        parse(float_body([10**400] * 192), manifest=FLOATS)


@pytest.mark.parametrize("nest", [list, lambda numbers: [[number] for number in numbers]])
def test_a_long_text_among_many_short_ones_takes_no_memory(nest):
    # As one array of texts these would take 1.6 GB.
    body = with_tensor(data=nest(["a" * 20_000] + ["b"] * 20_000))
    tracemalloc.start()
    with pytest.raises(MalformedError, match="something else"):
        parse(body)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 30 * 2**20


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
KEYS = ["name", "shape", "datatype", "data", "parameters"]


def only_refuses(body, header, manifest=PIXELS):
    with contextlib.suppress(MalformedError, TooLargeError):
        parse(body, header, manifest)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.none() | st.text(max_size=12) | st.integers().map(str))
def test_no_bytes_and_no_header_break_it(body, header):
    only_refuses(body, header)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON_VALUES),
    st.dictionaries(st.sampled_from(["id", "parameters", "outputs"]), JSON_VALUES),
    st.integers(-20, 20),
    st.binary(max_size=400),
)
def test_no_schema_breaks_it(tensor, more, shift, raw):
    base = json.loads(infer_body(PICTURES[:1]))["inputs"][0]
    text = json.dumps({"inputs": [{**base, **tensor}], **more}).encode()
    only_refuses(text + raw, str(len(text) + shift))
    only_refuses(text, None, FLOATS)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
def test_no_changed_byte_breaks_it(changes):
    body, header = binary_body(PICTURES)
    altered = bytearray(body)
    for place, value in changes:
        altered[place % len(altered)] = value
    only_refuses(bytes(altered), header)


def test_json_is_bounded_and_what_follows_it_is_not():
    body, header = binary_body(PICTURES)
    assert len(body) > int(header)
    read = parse_request(body, header, PIXELS, max_pictures=10, max_json=int(header))
    assert (read.values == PICTURES).all()
    for content, length in ((body, header), (infer_body(PICTURES), None)):
        with pytest.raises(TooLargeError, match="JSON"):
            parse_request(content, length, PIXELS, max_pictures=10, max_json=int(header) - 1)
