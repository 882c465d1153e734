"""Buckets, warm-up, threads, and graphs that take what the classifier took."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import helper

from prn_guard import Guard
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.execution import check_answer, check_buckets, pad, run_bound
from prn_guard.session import open_session
from prn_guard.verdict import Verdict

FIELDS = ("label", "logits", "score", "flagged")


def assert_same_bits(one, other):
    for name in FIELDS:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_default_buckets():
    assert check_buckets(None, "cuda") == (1, 2, 4, 8, 16, 32, 64)
    assert check_buckets(None, "cpu") == ()
    assert check_buckets([8, 1, 8], "cpu") == (1, 8)


@pytest.mark.parametrize(
    "buckets", [[], [0], [-1, 4], [1.5], ["4"], [True], 8, 1.5, "8", {8}, np.array([1, 8])]
)
def test_unusable_buckets_are_refused(folder, buckets):
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        Guard(folder, buckets=buckets)


@pytest.mark.parametrize(("count", "size"), [(1, 2), (2, 2), (3, 8), (8, 8), (9, 9)])
def test_padding_repeats_the_last_picture(pictures, count, size):
    padded = pad(pictures[:count], (2, 8))
    assert len(padded) == size
    np.testing.assert_array_equal(padded[:count], pictures[:count])
    np.testing.assert_array_equal(
        padded[count:], pictures[count - 1 : count].repeat(size - count, 0)
    )


@pytest.mark.parametrize("buckets", [(1,), (4,), (2, 16), (64,)])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_buckets_change_nothing(folder, pictures, buckets, batch_size):
    plain = Guard(folder).classify(pictures)
    padded = Guard(folder, buckets=buckets).classify(pictures, batch_size=batch_size)
    assert len(padded) == len(pictures)
    assert_same_bits(padded, plain)


@pytest.fixture
def sizes(monkeypatch):
    """The batch sizes that the graph sees."""
    from prn_guard import execution

    seen = []
    original = execution.to_tensor

    def spy(images, *rest):
        seen.append(len(images))
        return original(images, *rest)

    monkeypatch.setattr(execution, "to_tensor", spy)
    return seen


def test_the_graph_sees_no_size_but_the_buckets(folder, pictures, sizes):
    guard = Guard(folder, buckets=(2, 8))
    sizes.clear()
    guard.classify(pictures)
    assert sizes == [8, 8, 8, 8, 8]  # 37 pictures
    sizes.clear()
    guard.classify(pictures[:9])
    assert sizes == [8, 2]


def test_warm_up_runs_every_bucket_once(folder, sizes):
    guard = Guard(folder, buckets=(4, 1, 2))
    sizes.clear()
    assert guard.warm_up() is None
    assert sizes == [1, 2, 4]
    plain = Guard(folder)
    sizes.clear()
    plain.warm_up()
    assert sizes == [1]


@pytest.mark.parametrize(("count", "advised"), [(1, False), (2, True)])
def test_a_smaller_batch_is_advised_where_there_is_one(folder, count, advised):
    _, opened = open_session(folder)
    wrong = np.zeros((count, 3), np.uint8)
    with pytest.raises(DeviceError, match=f"a batch of {count} pictures") as caught:
        run_bound(opened, "image", wrong, ["score"])
    assert ("Pass a smaller batch size" in str(caught.value)) is advised


def test_threads_get_the_very_bits_of_one_thread(folder, pictures):
    guard = Guard(folder, buckets=(1, 4, 16))
    rng = np.random.default_rng(3)
    jobs = [pictures[rng.integers(0, len(pictures), rng.integers(1, 40))] for _ in range(60)]
    alone = [guard.classify(job, batch_size=7) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: guard.classify(job, batch_size=7), jobs))
    for one, other in zip(alone, together, strict=True):
        assert_same_bits(one, other)


def drop_in(model, *, layout):
    """Make the tiny graph take float32 on its own scale, 0..255 in BGR, under another name."""
    graph = model.graph
    graph.input[0].name = "data"
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if layout == "nchw":
        shape = graph.input[0].type.tensor_type.shape
        sizes = [shape.dim[axis].dim_value for axis in (3, 1, 2)]
        for axis, size in enumerate(sizes, 1):
            shape.dim[axis].dim_value = size
        graph.node[0].CopyFrom(
            helper.make_node("Transpose", ["data"], ["pixels"], perm=[0, 2, 3, 1])
        )
    else:
        graph.node[0].CopyFrom(helper.make_node("Identity", ["data"], ["pixels"]))
    for node, index, old in ((8, 0, "logits"), (9, 0, "label")):
        graph.node[node].output[index] = f"guard.{old}"
    graph.node[9].input[0] = "guard.logits"
    graph.output[2].name, graph.output[3].name = "guard.label", "guard.logits"


def as_drop_in(manifest, *, layout):
    manifest["tensor"] = {"name": "data", "dtype": "float32", "layout": layout}
    manifest["input"].update(pixel_range=255, channel_order="bgr", layout=layout)
    manifest["outputs"] = ["flagged", "score", "guard.label", "guard.logits"]
    manifest["names"].update(label="guard.label", logits="guard.logits")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_graph_in_the_classifiers_own_terms(write_guard, pictures, expected, layout):
    folder = write_guard(
        model=lambda model: drop_in(model, layout=layout),
        manifest=lambda manifest: as_drop_in(manifest, layout=layout),
    )
    verdict = Guard(folder).classify(pictures, batch_size=10)
    values = expected(pictures[..., ::-1])  # the graph sees the channels the other way round
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(verdict, name), values[name], err_msg=name)


def test_input_that_is_not_the_manifests_is_refused(write_guard):
    folder = write_guard(
        model=lambda model: drop_in(model, layout="nchw"),
        manifest=lambda manifest: as_drop_in(manifest, layout="nhwc"),
    )
    with pytest.raises(ArtifactError, match="input 'data' is"):
        Guard(folder)


def verdict_of(manifest, **changes):
    count, classes = 2, len(manifest.class_names)
    logits = np.zeros((count, classes), np.float32)
    logits[:, 1] = logits[:, 2] = 1
    usual = {
        "label": np.array([1, 2]),
        "logits": logits,
        "score": np.zeros(count, np.float32),
        "flagged": np.zeros(count, np.bool_),
    }
    return Verdict(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": np.array([1, 0])}, "not those of its highest"),
        ({"label": np.array([1, -2])}, "not those of its highest"),
        ({"label": np.array([1, 4])}, "not those of its highest"),
        ({"label": np.array([1])}, "2 rows each"),
        ({"logits": np.zeros((2, 5), np.float32)}, "2 rows each"),
        ({"score": np.array([0, np.nan], np.float32)}, "1 of 2 pictures"),
        ({"flagged": np.array([True, False])}, "does not flag by the threshold"),
    ],
)
def test_answers_are_checked(folder, changes, said):
    manifest = Guard(folder).manifest
    check_answer(verdict_of(manifest), manifest, 2, folder)  # of equal logits, either is right
    with pytest.raises(ArtifactError, match=said):
        check_answer(verdict_of(manifest, **changes), manifest, 2, folder)


def test_a_gpu_that_fails_is_not_the_files_fault(folder, monkeypatch):
    from prn_guard import session

    manifest, opened = session.open_session(folder)

    def fail(*_):
        raise DeviceError("out of memory")

    monkeypatch.setattr(session, "examine", fail)
    with pytest.raises(DeviceError, match="out of memory"):
        session._probe(opened, manifest, folder, "cuda")
    with pytest.raises(ArtifactError, match="fails on a plain grey picture"):
        session._probe(opened, manifest, folder, "cpu")
