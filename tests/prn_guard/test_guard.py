from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prn_guard import Guard, Verdict
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError

FIELDS = {
    "label": np.dtype(np.int64),
    "logits": np.dtype(np.float32),
    "score": np.dtype(np.float32),
    "flagged": np.dtype(np.bool_),
}


def assert_equal(verdict, values):
    for name, dtype in FIELDS.items():
        found = getattr(verdict, name)
        assert found.dtype == dtype, name
        np.testing.assert_array_equal(found, values[name], err_msg=name)


def test_verdict_equals_numpy(folder, pictures, expected):
    values = expected(pictures)
    assert 0 < values["flagged"].sum() < len(pictures)
    verdict = Guard(folder).classify(pictures)
    assert len(verdict) == len(pictures)
    assert_equal(verdict, values)


def test_score_on_the_threshold_is_not_flagged(folder, pictures):
    verdict = Guard(folder).classify(pictures[-1:])
    assert verdict.score[0] == np.float32(0.5)
    assert not verdict.flagged[0]


@pytest.mark.parametrize("batch_size", [1, 2, 36, 37, 1000])
def test_chunking_changes_nothing(folder, pictures, expected, batch_size):
    verdict = Guard(folder).classify(pictures, batch_size=batch_size)
    assert_equal(verdict, expected(pictures))


def test_permuted_batch_gives_permuted_verdict(folder, pictures, expected):
    order = np.random.default_rng(2).permutation(len(pictures))
    values = {name: value[order] for name, value in expected(pictures).items()}
    assert_equal(Guard(folder).classify(pictures[order], batch_size=5), values)


def test_strided_pictures_are_read_right(folder, pictures, expected):
    mirrored = pictures[::-2, :, ::-1]
    assert_equal(Guard(folder).classify(mirrored), expected(mirrored))


def test_threads_share_a_guard(folder, pictures, expected):
    guard, values = Guard(folder), expected(pictures)
    with ThreadPoolExecutor(4) as pool:
        for verdict in pool.map(lambda _: guard.classify(pictures, batch_size=3), range(8)):
            assert_equal(verdict, values)


def test_properties(folder):
    guard = Guard(str(folder))
    assert guard.provider == "CPUExecutionProvider"
    assert guard.manifest.class_names[1] == "bee"


def test_input_is_left_alone(folder, pictures):
    before = pictures.copy()
    Guard(folder).classify(pictures)
    np.testing.assert_array_equal(pictures, before)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "4", None])
def test_unusable_batch_size_is_refused(folder, pictures, batch_size):
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        Guard(folder).classify(pictures, batch_size=batch_size)


def set_constant(name, value):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == name:
                new = np.full_like(numpy_helper.to_array(tensor), value)
                tensor.CopyFrom(numpy_helper.from_array(new, name))

    return change


@pytest.mark.parametrize(("constant", "value"), [("biases", np.inf), ("full", 0.0)])
def test_graph_that_never_answers_finitely_is_refused_on_load(write_guard, constant, value):
    with pytest.raises(ArtifactError, match=r"1 of 1 pictures.*not finite"):
        Guard(write_guard(model=set_constant(constant, value)))


def test_answer_that_is_not_finite_is_refused(write_guard, pictures):
    # 192 pixels of 127 overflow float32; dark ones do not, nor the grey ones that are tried on
    # load, which are flagged and so halved.
    guard = Guard(write_guard(model=set_constant("weights", 1.4e34)))
    dark = pictures[0] // 4
    assert len(guard.classify(dark[None])) == 1
    with pytest.raises(ArtifactError, match=r"1 of 3 pictures.*not finite"):
        guard.classify(
            np.stack([pictures[0] // 4, np.full_like(pictures[0], 127), pictures[2] // 4])
        )


def test_threshold_that_differs_from_the_graph_is_refused(write_guard):
    # Mid-grey, 128 / 255, which is tried on load, lies above both thresholds.
    guard = Guard(write_guard(manifest=lambda m: m["detection"].update(threshold=0.501)))
    between = np.full((1, 8, 8, 3), 127, np.uint8)
    between[0, 0, 0, 0] = 237
    assert 0.5 < between.mean() / 255 < 0.501
    with pytest.raises(ArtifactError, match="does not flag by the threshold"):
        guard.classify(between)
    with pytest.raises(ArtifactError, match="does not flag by the threshold"):
        Guard(write_guard(manifest=lambda m: m["detection"].update(threshold=0.9)))


def test_graph_that_fails_while_running_is_reported(write_guard, pictures):
    def look_up_pixels(model):
        table = numpy_helper.from_array(np.arange(200, dtype=np.float32), "table")
        model.graph.initializer.append(table)
        model.graph.node[0].output[0] = "index"
        model.graph.node[0].attribute[0].i = onnx.TensorProto.INT64
        model.graph.node.insert(1, helper.make_node("Gather", ["table", "index"], ["pixels"]))

    guard = Guard(write_guard(model=look_up_pixels))
    assert len(guard.classify(pictures[:1])) == 1
    with pytest.raises(DeviceError, match="could not run a batch of 7"):
        guard.classify(pictures[:7])


def test_extra_output_is_allowed_when_stated(write_guard, pictures, expected):
    def add(model):
        value = helper.make_tensor_value_info("halved", onnx.TensorProto.FLOAT, ["N", 8, 8, 3])
        model.graph.output.insert(0, value)

    guard = Guard(write_guard(model=add, manifest=lambda m: m["outputs"].insert(0, "halved")))
    assert_equal(guard.classify(pictures), expected(pictures))


def test_probabilities_are_the_softmax():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 1000.0]], np.float32)
    verdict = Verdict(
        label=np.array([2, 0]),
        logits=logits,
        score=np.zeros(2, np.float32),
        flagged=np.zeros(2, np.bool_),
    )
    powers = np.exp([1.0, 2.0, 3.0])
    # 1e-15: a few roundings of float64.
    np.testing.assert_allclose(verdict.probabilities[0], powers / powers.sum(), rtol=1e-15)
    np.testing.assert_array_equal(verdict.probabilities[1], [0.5, 0.0, 0.5])
    with pytest.raises(FrozenInstanceError):
        verdict.label = logits
