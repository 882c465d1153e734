"""Tokens, TLS, and what is served where."""

import datetime
import http.client
import io
import ipaddress
import json
import logging
import ssl

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.errors import ForbiddenError, UnauthenticatedError
from prn_guard.serve.logs import LOGGER, OTHERS, JsonFormatter, configure, request_id
from prn_guard.serve.security import TokenCheck, check_host, check_origin
from tests.prn_guard.serve.running import NAME, PATIENCE, infer_body, serving

PHRASE = "correct-horse-battery-staple"
PICTURE = np.zeros((1, 8, 8, 3), np.uint8)
INFER = f"/v2/models/{NAME}/infer"


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        PHRASE,
        "Bearer",
        "Bearer ",
        f"Bearer {PHRASE}x",
        f"Bearer {PHRASE[:-1]}",
        f"Basic {PHRASE}",
        f"Bearer {PHRASE} {PHRASE}",
        "Bearer caf\xe9-horse-battery-staple",
    ],
)
def test_other_tokens_are_refused(shown):
    with pytest.raises(UnauthenticatedError):
        TokenCheck(PHRASE).check(shown)


@pytest.mark.parametrize("shown", [f"Bearer {PHRASE}", f"bearer  {PHRASE} "])
def test_the_token_is_taken(shown):
    TokenCheck(PHRASE).check(shown)
    TokenCheck(None).check(None)


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "hmac.compare_digest", lambda shown, secret: compared.append((shown, secret)) or True
    )
    TokenCheck(PHRASE).check("Bearer guess")
    assert compared == [(b"guess", PHRASE.encode())]


def test_hosts_and_origins():
    check_host("guard.local:8000", served="guard.local")
    check_origin("https://guard.example:8443", "guard.example:8443")
    check_origin(None, None)
    for origin in ("null", "https://other.example", "https://guard.example", ""):
        with pytest.raises(ForbiddenError):
            check_origin(origin, "guard.example:8443")


def test_a_token_guards_everything_but_probes_and_page(served_folder):
    with serving(served_folder, token=PHRASE) as running:
        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            assert running.ask("GET", path).status == 200
        paths = ("/v2", f"/v2/models/{NAME}", "/metrics", "/v1/state", "/openapi.json", "/nothing")
        for path in paths:
            refused = running.ask("GET", path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert running.ask("POST", INFER, infer_body(PICTURE)).status == 401
        assert running.ask("POST", "/v1/alarm/acknowledge").status == 401
        shown = {"Authorization": f"Bearer {PHRASE}"}
        text = running.ask("GET", "/metrics", **shown).body.decode()
        assert 'requests_total{outcome="unauthenticated",protocol="rest"} 8.0' in text
        assert "request_seconds_count" not in text
        with triton.InferenceServerClient(running.url) as client:
            given = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
            given.set_data_from_numpy(PICTURE)
            with pytest.raises(InferenceServerException, match="bearer token is needed"):
                client.infer(NAME, [given])
            assert client.infer(NAME, [given], headers=shown).as_numpy("label").shape == (1,)


def test_metrics_on_a_port_of_their_own(served_folder):
    with serving(served_folder, metrics_port=0, page=False) as running:
        assert running.ask("GET", "/metrics").status == 404
        assert running.ask("GET", "/").status == 404
        port = running.control.addresses.metrics_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for path, status in (("/metrics", 200), ("/v2", 404), ("/v1/state", 404)):
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == status
            response.read()
        connection.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file, locked = folder / "cert.pem", folder / "key.pem", folder / "locked.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    key_file.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    locked.write_bytes(key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"x")))
    return cert_file, key_file, locked


def test_tls(served_folder, pair):
    with serving(served_folder, tls_cert=pair[0], tls_key=pair[1], token=PHRASE) as running:
        context = ssl.create_default_context(cafile=pair[0])
        connection = http.client.HTTPSConnection(
            "127.0.0.1", running.port, timeout=PATIENCE, context=context
        )
        headers = {"Authorization": f"Bearer {PHRASE}", "Origin": f"https://{running.url}"}
        connection.request("POST", INFER, infer_body(PICTURE), headers)
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["outputs"]
        connection.close()
        with running.connect() as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP/1.1 200" not in plain.recv(1000)


def test_tls_files_that_cannot_be_used(served_folder, pair):
    cert, key, locked = pair
    for files in ((cert, cert), (key, key), (cert, locked), (cert / "none", key)):
        with (
            pytest.raises(InvalidArgumentError, match="are no certificate and its key"),
            serving(served_folder, tls_cert=files[0], tls_key=files[1]),
        ):
            pass


def test_logs_are_json_lines_with_request_ids(served_folder):
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in (LOGGER, *OTHERS)]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    configure("info", stream)
    try:
        with serving(served_folder, token=PHRASE) as running:
            shown = {"Authorization": f"Bearer {PHRASE}"}
            running.ask("GET", "/v2%7f%0a", x_request_id="mine", **shown)
            running.ask("GET", "/v2", x_request_id="other")
    finally:
        for one, handlers, propagate, level in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert PHRASE not in stream.getvalue()
    messages = [line["message"] for line in lines]
    for message in ("sessions are open", "listening", "ready", "stopping", "stopped"):
        assert message in messages
    told = {line["request_id"]: line for line in lines if line["message"] == "request"}
    assert (told["mine"]["status"], told["mine"]["path"]) == (404, "/v2\x7f\n")
    assert told["other"]["status"] == 401
    assert "token" in told["other"]["reason"]
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_log_lines_hold_whatever_is_in_them():
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "line\n%s", ("\x1b[31m",), None)
    record.level = "forged"
    record.thing = object
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["level"] == "error"


def test_request_ids():
    assert request_id("a" * 128) == "a" * 128
    assert request_id(None) != request_id(None)
    for odd in ("", "a" * 129, "a\n", "\u00e9", "-a"):
        assert request_id(odd) != odd


def test_grpc_beside_rest_with_one_token(served_folder):
    with serving(served_folder, grpc=True, grpc_port=0, token=PHRASE) as running:
        address = f"127.0.0.1:{running.control.addresses.grpc_port}"
        with triton_grpc.InferenceServerClient(address) as client:
            assert client.is_server_ready()
            given = triton_grpc.InferInput("image", [1, 8, 8, 3], "UINT8")
            given.set_data_from_numpy(PICTURE)
            with pytest.raises(InferenceServerException, match="bearer token is needed"):
                client.infer(NAME, [given])
            shown = {"authorization": f"Bearer {PHRASE}"}
            answer = client.infer(NAME, [given], headers=shown)
            assert answer.as_numpy("flagged").tolist() == [False]
        metrics = running.ask("GET", "/metrics", Authorization=f"Bearer {PHRASE}").body
        assert b'prn_guard_requests_total{outcome="ok",protocol="grpc"} 1.0' in metrics
