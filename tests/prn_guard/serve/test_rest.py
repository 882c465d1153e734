"""A real server, asked by an unmodified tritonclient and by plain HTTP."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from prn_guard import __version__
from tests.prn_guard.serve.running import NAME, binary_body, infer_body

INFER = f"/v2/models/{NAME}/infer"
OUTPUTS = ("flagged", "score", "label", "logits")


@pytest.fixture
def client(server):
    opened = triton.InferenceServerClient(server.url)
    yield opened
    opened.close()


def tensor(pictures, *, binary=True):
    given = triton.InferInput("image", list(pictures.shape), "UINT8")
    given.set_data_from_numpy(pictures, binary_data=binary)
    return [given]


def encoded(picture, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def form(*files, boundary="----b"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, more, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


FORM = "multipart/form-data; boundary=----b"


def test_metadata_by_tritonclient(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready(NAME, "2")
    assert client.get_server_metadata() == {
        "name": "prn-guard",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    known = client.get_model_metadata(NAME, "1")
    assert known == client.get_model_metadata(NAME)
    assert known == {
        "name": NAME,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        "outputs": [
            {"name": "flagged", "datatype": "BOOL", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, 4]},
        ],
    }


@pytest.mark.parametrize("binary", [True, False])
def test_infer_by_tritonclient_equals_the_oracle(client, pictures, expected, binary):
    oracle = expected(pictures)
    result = client.infer(NAME, tensor(pictures, binary=binary), request_id="mine", timeout=10**7)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == (
        "mine",
        NAME,
        "1",
    )
    assert [output["name"] for output in response["outputs"]] == list(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_array_equal(result.as_numpy(name), oracle[name])
        assert result.as_numpy(name).dtype == oracle[name].dtype


def test_outputs_come_as_each_was_asked_for(client, pictures, expected):
    oracle = expected(pictures[:3])
    asked = [
        triton.InferRequestedOutput("logits", binary_data=True),
        triton.InferRequestedOutput("label", binary_data=False),
    ]
    result = client.infer(NAME, tensor(pictures[:3]), outputs=asked)
    logits, label = result.get_response()["outputs"]
    assert logits["parameters"] == {"binary_data_size": 3 * 4 * 4}
    assert label["data"] == oracle["label"].tolist()
    np.testing.assert_array_equal(result.as_numpy("logits"), oracle["logits"])
    np.testing.assert_array_equal(result.as_numpy("label"), oracle["label"])


def test_plain_json_without_extension(server, pictures, expected):
    oracle = expected(pictures[:2])
    answer = server.ask("POST", f"/v2/models/{NAME}/versions/1/infer", infer_body(pictures[:2]))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    outputs = {output["name"]: output for output in answer.json["outputs"]}
    for name in OUTPUTS:
        found = np.array(outputs[name]["data"], oracle[name].dtype).reshape(outputs[name]["shape"])
        np.testing.assert_array_equal(found, oracle[name])
    assert "id" not in answer.json


def test_batched_answers_are_the_unbatched_ones(server, pictures, expected):
    """The tiny guard's sums are exact, so that not a bit may differ."""
    oracle = expected(pictures)

    def ask(row):
        body, length = binary_body(pictures[row : row + 1], parameters={"binary_data_output": True})
        answer = server.ask("POST", INFER, body, Inference_Header_Content_Length=length)
        assert answer.status == 200
        split = int(answer.headers["inference-header-content-length"])
        flagged, rest = answer.body[split : split + 1], answer.body[split + 1 :]
        assert [one["name"] for one in json.loads(answer.body[:split])["outputs"]] == list(OUTPUTS)
        return flagged + rest

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(pictures))))
    for row, answer in enumerate(answers):
        parts = [oracle[name][row : row + 1].tobytes() for name in OUTPUTS]
        assert answer == b"".join(parts)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", None])
def test_classify_raw(server, pictures, expected, kind):
    oracle = expected(pictures)
    for row in (0, 1):
        headers = {} if kind is None else {"Content_Type": kind}
        answer = server.ask("POST", "/v1/classify", encoded(pictures[row]), **headers)
        assert answer.status == 200, answer.body
        logits = oracle["logits"][row].astype(np.float64)
        powers = np.exp(logits - logits.max())
        label = int(oracle["label"][row])
        assert answer.json == {
            "label": label,
            "class_name": ["ant", "bee", "[bold]cat", "dog"][label],
            "probability": pytest.approx(powers[label] / powers.sum(), rel=1e-12),
            "request_id": answer.headers["x-request-id"],
            "model_name": NAME,
            "model_version": "1",
            "flagged": bool(oracle["flagged"][row]),
            "score": float(oracle["score"][row]),
            "threshold": 0.5,
        }


def test_classify_form_and_jpeg(server, pictures):
    picture = encoded(np.full((8, 8, 3), 40, np.uint8), "JPEG")
    raw = server.ask("POST", "/v1/classify", picture, Content_Type="image/jpeg")
    body = form(("note", "", b"hello"), ("image", '; filename="a.jpg"', picture))
    formed = server.ask("POST", "/v1/classify", body, Content_Type=FORM)
    assert (raw.status, formed.status) == (200, 200)
    assert {**raw.json, "request_id": 0} == {**formed.json, "request_id": 0}
    assert raw.json["score"] == pytest.approx(40 / 255, abs=0.01)


def test_classify_scales_unless_told_not_to(server):
    picture = encoded(np.full((20, 30, 3), 7, np.uint8))
    answer = server.ask("POST", "/v1/classify", picture, Content_Type="image/png")
    assert answer.status == 200
    assert answer.json["score"] == np.float32(7 / 255)
    refused = server.ask("POST", "/v1/classify?resize=false", picture, Content_Type="image/png")
    assert refused.status == 400
    assert "30 x 20 pixels" in refused.json["error"]


PNG = encoded(np.zeros((8, 8, 3), np.uint8))
BAD_CLASSIFY = {
    "empty": (b"", "image/png", 400),
    "garbage": (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "image/png", 400),
    "gif": (encoded(np.zeros((8, 8, 3), np.uint8), "GIF"), "image/png", 400),
    "cut": (PNG[:-26], "image/png", 400),
    "text": (PNG, "text/plain", 415),
    "curl's own": (PNG, "application/x-www-form-urlencoded", 415),
    "no boundary": (PNG, "multipart/form-data", 400),
    "long boundary": (PNG, f"multipart/form-data; boundary={'b' * 400}", 400),
    "no form": (PNG, FORM, 400),
    "no file": (form(("image", "", PNG)), FORM, 400),
    "two files": (form(*[("image", '; filename="a"', PNG)] * 2), FORM, 400),
    "many parts": (form(*[("image", "", b"")] * 100), FORM, 400),
    "no end": (form(("image", '; filename="a"', PNG))[:-8], FORM, 400),
    "long header": (form(("image", f'; filename="{"a" * 70000}"', PNG)), FORM, 400),
}


@pytest.mark.parametrize(("body", "kind", "status"), BAD_CLASSIFY.values(), ids=BAD_CLASSIFY)
def test_classify_refuses(server, body, kind, status):
    answer = server.ask("POST", "/v1/classify", body, Content_Type=kind)
    assert (answer.status, list(answer.json)) == (status, ["error"]), answer.body


@pytest.mark.parametrize("query", ["explain=maybe", "resize=2", "explain="])
def test_classify_refuses_queries(server, query):
    answer = server.ask("POST", f"/v1/classify?{query}", PNG, Content_Type="image/png")
    assert answer.status == 400
    assert "true or false" in answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", f"/v2/models/{NAME}/versions/2", 404),
        ("GET", f"/v2/models/{NAME}/versions/2/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"/v2/models/{NAME}/versions/x/infer", 404),
        ("POST", f"/v2/repository/models/{NAME}/load", 404),
        ("POST", "/v2/repository/index", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/settings.py", 404),
        ("GET", "/v2/", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
        ("PATCH", "/v1/classify", 405),
    ],
)
def test_paths_and_methods_that_are_none(server, method, path, status):
    answer = server.ask(method, path)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert (status == 405) == ("allow" in answer.headers)


def test_errors_reach_tritonclient(client, pictures):
    with pytest.raises(InferenceServerException, match="There is no output 'nothing'") as error:
        client.infer(NAME, tensor(pictures), outputs=[triton.InferRequestedOutput("nothing")])
    assert error.value.status() == "400"


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf", ""])
def test_timeout_headers_that_are_none(server, pictures, text):
    answer = server.ask("POST", INFER, infer_body(pictures[:1]), x_request_timeout_ms=text)
    assert answer.status == 400
    assert "x-request-timeout-ms" in answer.json["error"]


def test_compressed_bodies_are_refused(server, pictures):
    answer = server.ask("POST", INFER, infer_body(pictures[:1]), Content_Encoding="gzip")
    assert answer.status == 415


def test_request_ids_are_repeated_where_sane(server):
    kept = server.ask("GET", "/v2", x_request_id="a-Sane_one.1:2")
    assert kept.headers["x-request-id"] == "a-Sane_one.1:2"
    for odd in ("x" * 129, "a b", "-rf", "<script>", ""):
        made = server.ask("GET", "/v2", x_request_id=odd).headers["x-request-id"]
        assert len(made) == 32
        assert int(made, 16) >= 0


def test_every_answer_has_the_security_headers(server):
    for path in ("/", "/v2", "/nothing", "/metrics", "/v2/health/live"):
        headers = server.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_page_metrics_and_schema_are_served(server):
    page = server.ask("GET", "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    metrics = server.ask("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b"prn_guard_queue_pictures 0.0" in metrics.body
    paths = server.ask("GET", "/openapi.json").json["paths"]
    assert {"/v1/classify", "/v2/models/{name}/infer", "/v2/health/ready"} <= set(paths)
    assert server.ask("GET", "/docs").status == 404


def test_state_and_acknowledge(server):
    state = server.ask("GET", "/v1/state").json
    assert state["model_name"] == NAME
    assert (state["width"], state["height"], state["channels"]) == (8, 8, 3)
    assert state["explains"] is False
    assert server.ask("POST", "/v1/alarm/acknowledge").json["alarm"]["raised"] is False
    foreign = server.ask("POST", "/v1/alarm/acknowledge", Origin="https://elsewhere.example")
    assert foreign.status == 403
    own = server.ask("POST", "/v1/alarm/acknowledge", Origin=f"http://{server.url}")
    assert own.status == 200


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example:80", "", "::1", "a:b:c"])
def test_names_that_a_loopback_server_does_not_have(server, host):
    answer = server.ask("GET", "/v2", Host=host)
    assert answer.status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.2", "[::1]:80"])
def test_names_that_it_has(server, host):
    assert server.ask("GET", "/v2", Host=host).status == 200
