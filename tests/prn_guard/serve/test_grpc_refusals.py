"""What the gRPC server refuses, with which status, while others are answered on."""

import contextlib
import gzip
import socket
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from prn_guard.contract import Manifest
from prn_guard.serve.errors import MalformedError, TooLargeError
from prn_guard.serve.grpc_codec import decode_request
from prn_guard.serve.grpc_messages import MAX_OVERHEAD, parse
from tests.prn_guard.serve.grpc_running import HOST, NAME, Held, running, together, until

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CODES = grpc.StatusCode
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2 begins with: this, and settings, of which it has none."""


@pytest.fixture
def server(folder):
    with running(folder) as found:
        yield found


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as found:
        yield found


def request(images, **changes):
    """A good request; `changes` are set on its input."""
    found = service_pb2.ModelInferRequest(model_name=NAME)
    found.inputs.add(**{"name": "image", "datatype": "UINT8", "shape": images.shape, **changes})
    found.raw_input_contents.append(images.tobytes())
    return found


def send(channel, message, **settings):
    """The bytes of the answer to `message`, which may be any bytes."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return channel.unary_unary(METHOD)(content, timeout=settings.pop("timeout", 10), **settings)


def refusal(channel, message, **settings):
    with pytest.raises(grpc.RpcError) as refused:
        send(channel, message, **settings)
    return refused.value


def changed(images, change):
    found = request(images)
    change(found)
    return found


def _parameter(holder, name, **value):
    for kind, content in value.items():
        setattr(holder.parameters[name], kind, content)


MALFORMED = {
    "another input": lambda r: setattr(r.inputs[0], "name", "picture"),
    "another datatype": lambda r: setattr(r.inputs[0], "datatype", "FP32"),
    "an unknown datatype": lambda r: setattr(r.inputs[0], "datatype", "BYTES"),
    "no shape": lambda r: r.inputs[0].ClearField("shape"),
    "no picture": lambda r: r.inputs[0].shape.__setitem__(0, 0),
    "a negative size": lambda r: r.inputs[0].shape.__setitem__(0, -37),
    "a long shape": lambda r: r.inputs[0].shape.extend([1] * 1000),
    "other sides": lambda r: r.inputs[0].shape.__setitem__(1, 9),
    "too few bytes": lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 100),
    "too many bytes": lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 8000),
    "no bytes": lambda r: r.ClearField("raw_input_contents"),
    "two raw contents": lambda r: r.raw_input_contents.append(b""),
    "two inputs": lambda r: r.inputs.add(name="image"),
    "no input": lambda r: r.ClearField("inputs"),
    "both contents": lambda r: r.inputs[0].contents.uint_contents.append(1),
    "contents of another type": lambda r: (
        r.ClearField("raw_input_contents"),
        r.inputs[0].contents.int_contents.extend([0] * 37 * 192),
    ),
    "numbers beyond a byte": lambda r: (
        r.ClearField("raw_input_contents"),
        r.inputs[0].contents.uint_contents.extend([256] * 37 * 192),
    ),
    "an unknown output": lambda r: r.outputs.add(name="answers"),
    "an output twice": lambda r: (r.outputs.add(name="score"), r.outputs.add(name="score")),
    "too many outputs": lambda r: [r.outputs.add(name=f"{n}") for n in range(300)],
    "classification": lambda r: _parameter(
        r.outputs.add(name="logits"), "classification", int64_param=3
    ),
    "shared memory in": lambda r: _parameter(
        r.inputs[0], "shared_memory_region", string_param="mine"
    ),
    "shared memory out": lambda r: _parameter(
        r.outputs.add(name="logits"), "shared_memory_region", string_param="mine"
    ),
    "a long id": lambda r: setattr(r, "id", "x" * 300),
    "a timeout that is none": lambda r: _parameter(r, "timeout", bool_param=True),
    "a negative timeout": lambda r: _parameter(r, "timeout", int64_param=-1),
    "an endless timeout": lambda r: _parameter(r, "timeout", double_param=float("nan")),
    "a huge name": lambda r: setattr(r.inputs[0], "name", "x" * MAX_OVERHEAD),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_requests_are_invalid_arguments(channel, pictures, kind):
    error = refusal(channel, changed(pictures, MALFORMED[kind]))
    assert error.code() is CODES.INVALID_ARGUMENT
    assert 10 < len(error.details()) < 500
    send(channel, request(pictures))


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"\x2a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x0b", b"\x80" * 40,
     b"\x0d\x00", b"garbage" * 10_000],
)  # fmt: skip
def test_what_is_no_message_is_an_invalid_argument_or_not_found(channel, content, pictures):
    wanted = CODES.NOT_FOUND if content == b"" else CODES.INVALID_ARGUMENT  # of no model's name
    assert refusal(channel, content).code() is wanted
    for name in ("ModelReady", "ModelMetadata"):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        with pytest.raises(grpc.RpcError) as refused:
            call(content, timeout=10)
        assert refused.value.code() in {CODES.INVALID_ARGUMENT, CODES.NOT_FOUND}
    send(channel, request(pictures))


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x2a\x02\x2a\x00"])
def test_small_parts_that_would_fill_the_memory_are_not_parsed(field):
    with pytest.raises(MalformedError, match="besides its data"):
        parse("ModelInferRequest", field * 200_000)


def test_a_request_may_be_almost_all_data_and_name_every_output(pictures):
    good = request(pictures)
    for _ in range(200):
        good.outputs.add(name="x" * 100)
    parsed = parse("ModelInferRequest", good.SerializeToString())
    assert parsed.raw_input_contents[0] == pictures.tobytes()
    typed = service_pb2.ModelInferRequest()
    typed.inputs.add().contents.uint_contents.extend(range(100_000))
    parsed = parse("ModelInferRequest", typed.SerializeToString())
    assert list(parsed.inputs[0].contents.uint_contents) == list(range(100_000))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_requests_are_read_or_refused(folder, pictures, data):
    good = request(pictures[:1])
    good.outputs.add(name="score")
    _parameter(good, "timeout", int64_param=1000)
    if data.draw(st.booleans()):
        good.ClearField("raw_input_contents")
        good.inputs[0].contents.uint_contents.extend(pictures[0].ravel().tolist())
    content = bytearray(good.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the time outside the pixels, which are most of it and mean nothing.
        spots = st.integers(0, min(150, len(content)) - 1) | st.integers(0, len(content) - 1)
        place = data.draw(spots)
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not content:
            content = bytearray(b"\0")
    with contextlib.suppress(MalformedError, TooLargeError):
        parsed = parse("ModelInferRequest", bytes(content))
        decode_request(parsed, Manifest.read(folder), max_pictures=64, max_numbers=1 << 20)


def test_unknown_models_and_versions_are_not_found(channel, pictures):
    for change in ({"model_name": "other"}, {"model_version": "2"}):
        found = request(pictures)
        for name, value in change.items():
            setattr(found, name, value)
        assert refusal(channel, found).code() is CODES.NOT_FOUND


def test_too_many_pictures_exhaust_resources(channel, pictures):
    many = np.concatenate([pictures, pictures])  # 74, where 64 may wait
    assert refusal(channel, request(many)).code() is CODES.RESOURCE_EXHAUSTED


def test_numbers_one_by_one_are_bounded_and_raw_bytes_are_not(folder, pictures):
    typed = request(pictures[:2])
    typed.ClearField("raw_input_contents")
    typed.inputs[0].contents.uint_contents.extend(pictures[:2].ravel().tolist())
    for most, fits in ((pictures[:2].size, True), (pictures[:2].size - 1, False)):
        with (
            running(folder, max_numbers=most) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            send(channel, request(pictures))
            if fits:
                send(channel, typed)
            else:
                assert refusal(channel, typed).code() is CODES.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("said", [b"", PREFACE], ids=["nothing", "no call"])
def test_connections_that_ask_nothing_are_closed(folder, pictures, said):
    with (
        running(folder, header_timeout=0.2, keep_alive=0.2) as server,
        socket.create_connection((HOST, server.port), timeout=10) as idle,
        grpc.insecure_channel(server.address) as channel,
    ):
        idle.sendall(said)
        while idle.recv(4096):  # times out where nobody closes it
            pass
        send(channel, request(pictures))


def test_too_large_messages_exhaust_resources(channel, pictures, caplog):
    assert refusal(channel, b"x" * (2 << 20)).code() is CODES.RESOURCE_EXHAUSTED
    send(channel, request(pictures))
    assert "a request failed" not in caplog.text


def test_bytes_over_all_requests_are_bounded(folder, pictures):
    with (
        running(folder, max_bytes=5000) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        error = refusal(channel, request(pictures))
        assert error.code() is CODES.UNAVAILABLE
        assert ("grpc-retry-pushback-ms", "1000") in error.trailing_metadata()
        send(channel, request(pictures[:1]))
        assert server.budget.held == 0


def test_compressed_messages_are_refused_unread(server, pictures):
    bomb = b"\0" * (64 << 20)  # some 64 KB on the wire
    assert len(gzip.compress(bomb, 1)) < 1 << 20
    with grpc.insecure_channel(
        server.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        error = refusal(channel, bomb, compression=grpc.Compression.Gzip)
        assert error.code() is CODES.UNIMPLEMENTED
        send(channel, request(pictures))


def test_a_queue_that_is_full_is_unavailable(folder, pictures):
    engine = Held(folder)
    engine.go.set()
    with (
        running(engine, max_queue=4) as server,
        grpc.insecure_channel(server.address) as channel,
        together(3) as pool,
    ):
        engine.go.clear()
        engine.begun.clear()
        first = pool.submit(send, channel, request(pictures[:1]))
        assert engine.begun.wait(10)
        waiting = pool.submit(send, channel, request(pictures[1:5]))
        until(lambda: server.service.waiting == 4)
        error = refusal(channel, request(pictures[:1]))
        assert error.code() is CODES.UNAVAILABLE
        assert ("grpc-retry-pushback-ms", "1000") in error.trailing_metadata()
        engine.go.set()
        assert first.result(10)
        assert waiting.result(10)


def test_a_deadline_in_the_request_and_one_of_the_call_are_kept(folder, pictures):
    engine = Held(folder)
    engine.go.set()
    with running(engine) as server, grpc.insecure_channel(server.address) as channel:
        engine.go.clear()
        found = request(pictures)
        _parameter(found, "timeout", int64_param=50_000)
        assert refusal(channel, found).code() is CODES.DEADLINE_EXCEEDED
        error = refusal(channel, request(pictures), timeout=0.05)
        assert error.code() is CODES.DEADLINE_EXCEEDED
        engine.go.set()
        send(channel, request(pictures))


def test_what_fails_inside_is_internal_and_told_to_nobody(folder, pictures, caplog):
    engine = Held(folder)
    engine.go.set()
    with running(engine) as server, grpc.insecure_channel(server.address) as channel:
        engine.fails = True
        error = refusal(channel, request(pictures))
        assert error.code() is CODES.INTERNAL
        assert "ZeroDivision" not in error.details()
        engine.fails = False
        send(channel, request(pictures))
    assert "ZeroDivisionError" in caplog.text


def test_a_defect_here_is_internal_too(server, channel, pictures, monkeypatch, caplog):
    monkeypatch.setattr("prn_guard.serve.grpc_server.decode_request", lambda *_, **__: {}["x"])
    error = refusal(channel, request(pictures))
    assert error.code() is CODES.INTERNAL
    assert "KeyError" not in error.details()
    assert "KeyError" in caplog.text


def test_messages_that_do_not_come_are_given_up(folder, pictures):
    with (
        running(folder, body_timeout=0.1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        ended = threading.Event()

        def never():
            ended.wait(20)
            yield from ()

        with pytest.raises(grpc.RpcError) as refused:
            channel.stream_unary(METHOD)(never(), timeout=10)
        ended.set()
        assert refused.value.code() is CODES.DEADLINE_EXCEEDED
        assert "did not arrive" in refused.value.details()
        send(channel, request(pictures))


@pytest.mark.parametrize("count", [0, 2])
def test_one_message_is_one_request(channel, pictures, count):
    content = request(pictures).SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(METHOD)(iter([content] * count), timeout=10)
    assert refused.value.code() is CODES.INVALID_ARGUMENT


def test_a_client_that_goes_away_harms_nobody(folder, pictures):
    engine = Held(folder)
    engine.go.set()
    with running(engine) as server, grpc.insecure_channel(server.address) as channel:
        engine.begun.clear()
        engine.go.clear()
        with grpc.insecure_channel(server.address) as leaving:
            asked = leaving.unary_unary(METHOD).future(request(pictures).SerializeToString())
            assert engine.begun.wait(10)
        assert asked.code() is CODES.CANCELLED
        until(lambda: not server.budget.held)
        engine.go.set()
        send(channel, request(pictures))
    assert 'outcome="cancelled",protocol="grpc"} 1.0' in server.service.metrics.render().decode()


def test_no_more_calls_at_a_time_than_allowed(folder, pictures):
    engine = Held(folder)
    engine.go.set()
    with (
        running(engine, max_calls=1) as server,
        grpc.insecure_channel(server.address) as channel,
        together(1) as pool,
    ):
        engine.begun.clear()
        engine.go.clear()
        first = pool.submit(send, channel, request(pictures))
        assert engine.begun.wait(10)
        assert refusal(channel, request(pictures)).code() is CODES.RESOURCE_EXHAUSTED
        engine.go.set()
        first.result(10)


def test_outcomes_are_counted(server, channel, pictures):
    send(channel, request(pictures))
    refusal(channel, request(pictures, name="picture"))
    text = server.service.metrics.render().decode()
    assert 'prn_guard_requests_total{outcome="ok",protocol="grpc"} 1.0' in text
    assert 'prn_guard_requests_total{outcome="malformed",protocol="grpc"} 1.0' in text
    assert 'prn_guard_stage_seconds_count{stage="decode"} 1.0' in text


def test_each_request_is_logged_with_an_id_of_its_own_or_the_clients(channel, pictures, caplog):
    caplog.set_level("INFO", logger="prn_guard")
    send(channel, request(pictures), metadata=[("x-request-id", "mine-1")])
    refusal(channel, request(pictures, name="picture"), metadata=[("x-request-id", "bad id")])
    lines = [record for record in caplog.records if record.message == "request"]
    assert [line.status for line in lines] == ["OK", "INVALID_ARGUMENT"]
    assert lines[0].request_id == "mine-1"
    assert len(lines[1].request_id) == 32


def test_triton_clients_are_told_what_was_wrong(server, pictures):
    entry = client.InferInput("image", [37, 8, 8, 3], "UINT8")
    entry.set_data_from_numpy(pictures)
    with (
        client.InferenceServerClient(server.address) as triton,
        pytest.raises(client.InferenceServerException, match="There is no model 'other'"),
    ):
        triton.infer("other", [entry])
