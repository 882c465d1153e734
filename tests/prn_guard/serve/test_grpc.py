"""The gRPC server, called by an unmodified `tritonclient` in the same process."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve import grpc_messages
from prn_guard.serve.grpc_messages import MESSAGES
from tests.prn_guard.serve.grpc_running import NAME, Held, running, together

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105
OUTPUTS = ("logits", "label", "score", "flagged")


@pytest.fixture
def server(folder):
    with running(folder) as found:
        yield found


@pytest.fixture
def triton(server):
    with client.InferenceServerClient(server.address) as found:
        yield found


def tensor(images):
    found = client.InferInput("image", list(images.shape), "UINT8")
    found.set_data_from_numpy(images)
    return found


def test_the_server_and_its_model_are_described(triton, server):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(NAME)
    assert triton.is_model_ready(NAME, "1")
    about = triton.get_server_metadata()
    assert about.name == "prn-guard"
    model = triton.get_model_metadata(NAME, as_json=True)
    assert model == {
        "name": NAME,
        "versions": ["1"],
        "platform": server.service.model_metadata()["platform"],
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]}],
        "outputs": [
            {"name": "flagged", "datatype": "BOOL", "shape": ["-1"]},
            {"name": "score", "datatype": "FP32", "shape": ["-1"]},
            {"name": "label", "datatype": "INT64", "shape": ["-1"]},
            {"name": "logits", "datatype": "FP32", "shape": ["-1", "4"]},
        ],
    }


def test_raw_pictures_get_the_guards_answers(triton, pictures, expected):
    result = triton.infer(NAME, [tensor(pictures)], request_id="mine", model_version="1")
    wanted = expected(pictures)
    for name in OUTPUTS:
        found = result.as_numpy(name)
        assert found.dtype == wanted[name].dtype
        assert np.array_equal(found, wanted[name])
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", NAME, "1")
    assert [output.name for output in response.outputs] == ["flagged", "score", "label", "logits"]


def test_typed_contents_get_the_same(server, pictures, expected):
    request = service_pb2.ModelInferRequest(model_name=NAME)
    entry = request.inputs.add(name="image", datatype="UINT8", shape=pictures.shape)
    entry.contents.uint_contents.extend(pictures.ravel().tolist())
    with grpc.insecure_channel(server.address) as channel:
        response = infer_on(channel)(request)
    found = dict(zip([o.name for o in response.outputs], response.raw_output_contents, strict=True))
    assert np.array_equal(np.frombuffer(found["label"], np.int64), expected(pictures)["label"])


def infer_on(channel):
    """`ModelInfer` of a channel, as another stack than tritonclient's would call it."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )


def test_outputs_come_as_they_are_asked_for(triton, pictures, expected):
    asked = [client.InferRequestedOutput(name) for name in ("score", "flagged")]
    result = triton.infer(NAME, [tensor(pictures)], outputs=asked)
    assert [output.name for output in result.get_response().outputs] == ["score", "flagged"]
    assert np.array_equal(result.as_numpy("flagged"), expected(pictures)["flagged"])
    assert result.as_numpy("logits") is None


def test_a_float_model_takes_raw_and_typed_floats(write_guard, pictures, expected):
    with running(write_guard(model=_takes_floats, manifest=_floats)) as server:
        values = pictures.astype(np.float32)
        entry = client.InferInput("image", list(values.shape), "FP32")
        entry.set_data_from_numpy(values)
        with client.InferenceServerClient(server.address) as triton:
            raw = triton.infer(NAME, [entry]).as_numpy("logits")
        request = service_pb2.ModelInferRequest(model_name=NAME)
        typed = request.inputs.add(name="image", datatype="FP32", shape=values.shape)
        typed.contents.fp32_contents.extend(values.ravel().tolist())
        with grpc.insecure_channel(server.address) as channel:
            response = infer_on(channel)(request)
            typed.contents.fp32_contents[5] = float("nan")
            with pytest.raises(grpc.RpcError) as refused:
                infer_on(channel)(request)
    assert np.array_equal(raw, expected(pictures)["logits"])
    logits = [output.name for output in response.outputs].index("logits")
    assert response.raw_output_contents[logits] == raw.tobytes()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def _takes_floats(model):
    model.graph.input[0].type.tensor_type.elem_type = 1


def _floats(record):
    record["tensor"] = {"name": "image", "dtype": "float32", "layout": "nhwc"}
    record["input"]["pixel_range"] = 255


def test_many_clients_get_their_own_answers(server, pictures, expected):
    wanted = expected(pictures)["logits"]

    def ask(row):
        with client.InferenceServerClient(server.address) as triton:
            return triton.infer(NAME, [tensor(pictures[row : row + 1])]).as_numpy("logits")[0]

    with together(8) as pool:
        found = list(pool.map(ask, range(len(pictures))))
    assert np.array_equal(found, wanted)
    assert server.budget.held == 0


def test_what_is_not_served_is_unimplemented(triton):
    with pytest.raises(InferenceServerException) as refused:
        triton.load_model(NAME)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_only_who_has_the_token_may_ask(folder, pictures):
    with (
        running(folder, token=TOKEN) as server,
        client.InferenceServerClient(server.address) as triton,
    ):
        assert triton.is_server_live()
        assert triton.is_server_ready()
        right = {"authorization": f"Bearer {TOKEN}"}
        assert triton.is_model_ready(NAME, headers=right)
        triton.infer(NAME, [tensor(pictures)], headers=right)
        for wrong in ({}, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN[:-1]}0"}):
            for ask in (
                lambda headers: triton.get_model_metadata(NAME, headers=headers),
                lambda headers: triton.infer(NAME, [tensor(pictures)], headers=headers),
            ):
                with pytest.raises(InferenceServerException) as refused:
                    ask(wrong)
                assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
                assert TOKEN not in refused.value.message()
        text = server.service.metrics.render().decode()
        assert 'requests_total{outcome="unauthenticated",protocol="grpc"} 6.0' in text


def test_tls_is_spoken(folder, pictures, tmp_path):
    key, certificate = _certificate()
    place = tmp_path / "certificate.pem"
    place.write_bytes(certificate)
    with running(folder, tls=(key, certificate)) as server:
        address = f"localhost:{server.port}"
        with client.InferenceServerClient(address, ssl=True, root_certificates=str(place)) as found:
            assert found.infer(NAME, [tensor(pictures)]).as_numpy("label").shape == (37,)
        with (
            grpc.insecure_channel(address) as channel,
            pytest.raises(grpc.RpcError) as refused,
        ):
            infer_on(channel)(service_pb2.ModelInferRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def _certificate():
    """A key and a certificate for `localhost`, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        signed.public_bytes(pem),
    )


def test_an_address_in_use_and_bad_certificates_are_refused(server, folder):
    with (
        pytest.raises(InvalidArgumentError, match="cannot listen"),
        running(folder, port=server.port),
    ):
        pass
    with (
        pytest.raises(InvalidArgumentError, match="cannot listen"),
        running(folder, tls=(b"no key", b"no certificate")),
    ):
        pass


def test_requests_in_flight_are_answered_when_the_server_stops(folder, pictures, expected):
    engine = Held(folder)
    with (
        running(engine, start=False) as server,
        client.InferenceServerClient(server.address) as triton,
        together(2) as pool,
    ):
        assert not triton.is_server_ready()
        engine.go.set()
        server.call(server.service.start())
        assert triton.is_server_ready()
        engine.begun.clear()
        engine.go.clear()
        asked = pool.submit(triton.infer, NAME, [tensor(pictures)])
        assert engine.begun.wait(10)
        server.service.begin_stop()
        assert not triton.is_server_ready()
        with pytest.raises(InferenceServerException) as refused:
            triton.infer(NAME, [tensor(pictures)])
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        engine.go.set()
        assert np.array_equal(asked.result(10).as_numpy("label"), expected(pictures)["label"])


def test_the_messages_are_those_of_the_protocol():
    """Against tritonclient's own descriptors, and against the .proto beside ours."""
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name, kind in MESSAGES.items():
        assert shape_of(kind.DESCRIPTOR) == shape_of(theirs[name])
    place = Path(grpc_messages.__file__).parent
    text = (place / "open_inference.proto").read_text()
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString(
        (place / "open_inference.binpb").read_bytes()
    ).file
    written = re.findall(r"^ +(?:repeated )?[\w<>, ]+ (\w+) = (\d+);", text, re.MULTILINE)
    assert written == list(fields_in_order(compiled.message_type))
    assert re.findall(r"^message (\w+)", text, re.MULTILINE) == list(MESSAGES)
    assert len(MESSAGES) == 14


def shape_of(message):
    """Everything about a message that is on the wire or in JSON."""
    fields = {
        field.number: (
            field.name,
            field.type,
            field.is_repeated,
            field.containing_oneof and field.containing_oneof.name,
            field.message_type and shape_of(field.message_type),
        )
        for field in message.fields
    }
    return message.full_name, message.GetOptions().map_entry, fields


def fields_in_order(messages):
    for message in messages:
        nested = [one for one in message.nested_type if not one.options.map_entry]
        yield from fields_in_order(nested)
        yield from ((field.name, str(field.number)) for field in message.field)
