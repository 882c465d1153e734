"""Explanations: what was seen, what was removed, and the label before and after."""

import base64
import hashlib
import io

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from prn_guard.contract import Manifest
from prn_guard.serve.explain import BareClassifier
from tests.prn_guard.serve.running import serving
from tests.prn_guard.tiny import (
    BIASES,
    THRESHOLD,
    VALUES,
    WEIGHTS,
    tiny_manifest,
    tiny_model,
    tiny_spec,
    write_folder,
)


def rectifying_model():
    """The tiny guard, with its halved picture, in [0, 1], as a further output."""
    model = tiny_model()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    graph.node.append(helper.make_node("Div", ["halved", "white"], ["rectified"]))
    graph.output.append(
        helper.make_tensor_value_info("rectified", TensorProto.FLOAT, ["N", 8, 8, 3])
    )
    return model.SerializeToString()


def bare_model(batch):
    """The linear classifier alone, of pixels over 255, channels first."""
    # The guard's classifier takes rows of height, width, channel on 0..255.
    weights = WEIGHTS.reshape(8, 8, 3, -1).transpose(2, 0, 1, 3).reshape(VALUES, -1) * 255
    constants = {"weights": weights, "biases": BIASES}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "biases"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bare",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.fixture(params=["N", 2])
def explaining(tmp_path, request):
    """An artifact that holds all that an explanation needs."""
    folder = tmp_path / "tiny"
    graph, bare = rectifying_model(), bare_model(request.param)
    record = tiny_manifest(tiny_spec(), graph)
    record["outputs"].append("rectified")
    record["names"]["rectified"] = "rectified"
    record["parity"]["max_rectified_difference"] = 0.0
    record["files"].append(
        {"name": "bare.onnx", "sha256": hashlib.sha256(bare).hexdigest(), "size_bytes": len(bare)}
    )
    write_folder(folder, graph, record)
    (folder / "bare.onnx").write_bytes(bare)
    return folder


def encoded(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def decoded(text):
    return np.array(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


def linear(values):
    """The classifier's label, and the softmax of its logits, in float64."""
    logits = values.reshape(-1).astype(np.float64) @ WEIGHTS.astype(np.float64) + BIASES
    powers = np.exp(logits - logits.max())
    return int(logits.argmax()), powers.max() / powers.sum()


def test_explanations_equal_the_oracle(explaining, pictures):
    names = ["ant", "bee", "[bold]cat", "dog"]
    with serving(explaining) as running:
        state = running.ask("GET", "/v1/state").json
        assert (state["explains"], state["compares"]) == (True, True)
        for picture in pictures[:4]:
            answer = running.ask(
                "POST", "/v1/classify?explain=true", encoded(picture), Content_Type="image/png"
            ).json
            flagged = picture.astype(np.float64).sum() / (VALUES * 255) > THRESHOLD
            assert answer["flagged"] == flagged
            found = answer["explanation"]
            np.testing.assert_array_equal(decoded(found["input_png"]), picture)
            halves = picture.astype(np.float64) / 2
            rectified = decoded(found["rectified_png"]).astype(np.float64)
            assert np.abs(rectified - halves).max() <= 0.5
            largest = halves.max()
            assert found["removed_largest"] == pytest.approx(largest, rel=1e-6)
            assert found["removed_factor"] == pytest.approx(max(127 / largest, 1), rel=1e-6)
            shown = decoded(found["removed_png"]).astype(np.float64)
            assert np.abs(shown - (128 + found["removed_factor"] * halves)).max() <= 0.51
            for key, values in (("before", picture), ("after", halves)):
                label, probability = linear(values)
                assert found[key] == {
                    "label": label,
                    "class_name": names[label],
                    "probability": pytest.approx(probability, rel=1e-3),
                }
            own = {key: answer[key] for key in ("label", "class_name", "probability")}
            assert own == found["after" if flagged else "before"]
        plain = running.ask("POST", "/v1/classify", encoded(pictures[0]), Content_Type="image/png")
        assert "explanation" not in plain.json


def test_what_is_not_in_the_artifact_is_none(server, pictures):
    for picture in pictures[:2]:
        answer = server.ask(
            "POST", "/v1/classify?explain=1", encoded(picture), Content_Type="image/png"
        ).json
        found = answer["explanation"]
        np.testing.assert_array_equal(decoded(found["input_png"]), picture)
        assert found["rectified_png"] is found["removed_png"] is found["removed_factor"] is None
        own = {key: answer[key] for key in ("label", "class_name", "probability")}
        assert [found["before"], found["after"]] == (
            [None, own] if answer["flagged"] else [own, None]
        )


def test_the_rectified_picture_is_served_when_it_is_asked_for(explaining, pictures):
    import tritonclient.http as triton

    with serving(explaining) as running, triton.InferenceServerClient(running.url) as client:
        given = triton.InferInput("image", [3, 8, 8, 3], "UINT8")
        given.set_data_from_numpy(pictures[:3])
        all_but = client.infer("tiny", [given]).get_response()["outputs"]
        assert [one["name"] for one in all_but] == ["flagged", "score", "label", "logits"]
        asked = [triton.InferRequestedOutput("rectified")]
        rectified = client.infer("tiny", [given], outputs=asked).as_numpy("rectified")
    expected = pictures[:3].astype(np.float32) / 2 / np.float32(255)
    np.testing.assert_array_equal(rectified, expected)


def test_no_bare_classifier_where_nobody_sees_it(explaining):
    with serving(explaining, page=False) as running:
        assert running.ask("GET", "/v1/state").json["compares"] is False


def test_a_picture_that_nothing_was_removed_of_is_grey():
    from prn_guard.serve.explain import _removed

    picture = np.full((8, 8, 3), 77, np.uint8)
    shown, factor, largest = _removed(picture, picture.astype(np.float32))
    assert (shown == 128).all()
    assert (factor, largest) == (127, 0)


def test_a_bare_classifier_labels_one_picture(explaining, pictures):
    manifest = Manifest.read(explaining)
    bare = BareClassifier(explaining, manifest)
    for picture in pictures[:5]:
        label, probability = linear(picture)
        answer = bare.classify(picture.astype(np.float32), manifest.input)
        assert answer["label"] == label
        assert answer["probability"] == pytest.approx(probability, rel=1e-3)
