"""What is told of answered pictures: metrics, alarm, webhook, quarantine; and drop-in guards."""

import http.server
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto
from PIL import Image

from tests.prn_guard.serve.running import NAME, PATIENCE, infer_body, serving

INFER = f"/v2/models/{NAME}/infer"
BRIGHT = np.random.default_rng(3).integers(200, 256, (20, 8, 8, 3), dtype=np.uint8)
DARK = BRIGHT // 4


@pytest.fixture
def hook():
    """A listener for the alarm; what it was told."""
    told, came = [], threading.Event()

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()
            came.set()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_port}/x?key=hunter2", told, came
        listener.shutdown()
        thread.join()


def counts(running, name):
    lines = running.ask("GET", "/metrics").body.decode().splitlines()
    named = [line for line in lines if name in line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.split()[-1]) for line in named}


def test_an_attack_is_told_to_metric_state_and_webhook(served_folder, hook):
    url, told, came = hook
    with serving(served_folder, alarm_webhook=url, alarm_window=50) as running:
        assert running.ask("POST", INFER, infer_body(DARK)).status == 200
        assert running.ask("GET", "/v1/state").json["alarm"]["raised"] is False
        assert running.ask("POST", INFER, infer_body(BRIGHT)).status == 200
        alarm = running.ask("GET", "/v1/state").json["alarm"]
        assert (alarm["raised"], alarm["seen"], alarm["flagged_share"]) == (True, 40, 0.5)
        assert came.wait(PATIENCE)
        (message,) = told
        assert (message["event"], message["model"]) == ("attack_alarm_raised", NAME)
        assert message["alarm"]["raised"] is True
        assert counts(running, "prn_guard_pictures_total") == {
            'prn_guard_pictures_total{flagged="true"}': 20,
            'prn_guard_pictures_total{flagged="false"}': 20,
        }
        assert 1.0 in counts(running, "attack_alarm").values()
        assert counts(running, 'requests_total{outcome="ok",protocol="rest"}').popitem()[1] == 2
        again = running.ask("POST", "/v1/alarm/acknowledge").json["alarm"]
        assert (again["raised"], again["alarms"]) == (False, 1)


def test_flagged_pictures_are_kept_and_others_are_not(served_folder, tmp_path):
    place = tmp_path / "quarantine"
    with serving(served_folder, quarantine=place) as running:
        body = infer_body(np.concatenate([DARK[:3], BRIGHT[:2]]))
        assert running.ask("POST", INFER, body, x_request_id="mine").status == 200
        stream = io.BytesIO()
        Image.fromarray(BRIGHT[2]).save(stream, "PNG")
        answer = running.ask("POST", "/v1/classify", stream.getvalue(), Content_Type="image/png")
        assert answer.json["flagged"] is True
    pictures = [np.array(Image.open(path)) for path in sorted(place.glob("*.png"))]
    np.testing.assert_array_equal(pictures, BRIGHT[:3])
    facts = [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]
    assert [(one["request_id"], one["row"]) for one in facts[:2]] == [("mine", 3), ("mine", 4)]
    assert all(one["score"] > one["threshold"] == 0.5 for one in facts)


def test_a_quarantine_that_cannot_be_written_harms_no_request(served_folder, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("surprise")

    monkeypatch.setattr("prn_guard.serve.quarantine.Quarantine.keep", broken)
    with serving(served_folder, quarantine=tmp_path / "q") as running:
        for _ in range(3):
            assert running.ask("POST", INFER, infer_body(BRIGHT)).status == 200
        ends = time.monotonic() + PATIENCE
        while counts(running, "quarantined_total") != {
            'prn_guard_quarantined_total{kept="false"}': 3 * len(BRIGHT)
        }:
            assert time.monotonic() < ends


@pytest.fixture
def drop_in(write_guard) -> Path:
    """The tiny guard as one that takes the classifier's own floats, blue first, channels last."""

    def change(model):
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

    def record(content):
        content["tensor"] = {"name": "image", "dtype": "float32", "layout": "nhwc"}
        content["input"].update(pixel_range=255, channel_order="bgr")

    return write_guard(model=change, manifest=record)


def test_drop_in_guards_take_floats_and_pictures(drop_in, expected, tmp_path):
    oracle = expected(BRIGHT[..., ::-1])
    values = BRIGHT[..., ::-1].astype(np.float32)
    settings = {"model_name": NAME, "quarantine": tmp_path / "q"}
    with serving(drop_in, **settings) as running:
        with triton.InferenceServerClient(running.url) as client:
            given = triton.InferInput("image", list(values.shape), "FP32")
            given.set_data_from_numpy(values)
            result = client.infer(NAME, [given])
        np.testing.assert_array_equal(result.as_numpy("logits"), oracle["logits"])
        stream = io.BytesIO()
        Image.fromarray(BRIGHT[0]).save(stream, "PNG")
        answer = running.ask("POST", "/v1/classify", stream.getvalue(), Content_Type="image/png")
        assert answer.json["score"] == oracle["score"][0]
        values[3, 1, 2, 0] = np.nan
        tensor = {"name": "image", "shape": list(values.shape), "datatype": "FP32"}
        tensor["parameters"] = {"binary_data_size": values.nbytes}
        text = json.dumps({"inputs": [tensor]}).encode()
        refused = running.ask(
            "POST", INFER, text + values.tobytes(), Inference_Header_Content_Length=str(len(text))
        )
        assert refused.status == 400
        assert "not finite" in refused.json["error"]
    kept = [np.array(Image.open(path)) for path in sorted((tmp_path / "q").glob("*.png"))]
    np.testing.assert_array_equal(kept, [*BRIGHT, BRIGHT[0]])
