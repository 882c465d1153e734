"""What the two sides of a benchmark are given, and where they are run."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from prn_guard.bench_sessions import cpu_name, open_both, runs_of
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.execution import LARGEST_BUCKET
from tests.tiny_guard import CHANNELS, SIZE, bare_graph, picture_graph, write_guard


def test_both_get_the_same_pictures_each_in_its_own_form(tmp_path):
    both = open_both(
        write_guard(tmp_path / "g", bare=bare_graph()), bare=None, device="cpu", threads=1
    )
    guarded, bare = runs_of(both, [2, 5, LARGEST_BUCKET + 1], seed=3)
    rgb = guarded(5).logits  # means of the pixels, 0..255
    expected = (rgb[:, ::-1] - np.array([10, 20, 30])) / np.array([2, 4, 5])
    np.testing.assert_allclose(bare(5)[0], expected, rtol=1e-5)
    for size in (2, LARGEST_BUCKET + 1):
        assert len(bare(size)[0]) == len(guarded(size)) == size


@pytest.mark.parametrize(
    ("layout", "kind", "dtype"), [("nhwc", TensorProto.FLOAT16, np.float16), ("nhwc", 2, np.uint8)]
)
def test_bare_pictures_in_every_form(tmp_path, layout, kind, dtype):
    bare = picture_graph([helper.make_node("Identity", ["image"], ["same"])], kind, layout)
    both = open_both(write_guard(tmp_path / "g", bare=bare), bare=None, device="cpu", threads=1)
    (same,) = runs_of(both, [3], seed=3)[1](3)
    drawn = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, CHANNELS), dtype=np.uint8)
    scaled = ((drawn[..., ::-1] - np.array([10.0, 20, 30])) / [2, 4, 5]).astype(np.float16)
    assert same.dtype == dtype
    np.testing.assert_array_equal(same, drawn if dtype == np.uint8 else scaled)


@pytest.mark.parametrize(("dtype", "precision"), [(np.float16, "fp16"), (np.float32, "fp32")])
def test_precision_of_the_bare_graph_is_that_of_its_weights(tmp_path, dtype, precision):
    weights = [
        numpy_helper.from_array(np.ones(100, dtype), "w"),
        numpy_helper.from_array(np.ones(3, np.float32), "scale"),
    ]
    identity = [helper.make_node("Identity", ["image"], ["same"])]
    bare = picture_graph(identity, TensorProto.FLOAT, "nchw", weights)
    both = open_both(write_guard(tmp_path / "g", bare=bare), bare=None, device="cpu", threads=1)
    assert (both.bare_precision, both.bare_verified) == (precision, True)


def test_the_guarded_side_is_checked_as_a_users_is(tmp_path):
    folder = write_guard(tmp_path / "g", bare=bare_graph())
    both = open_both(folder, bare=None, device="cpu", threads=1)
    moved = both.manifest.detection.model_copy(update={"threshold": 1e30})
    broken = replace(both, manifest=both.manifest.model_copy(update={"detection": moved}))
    with pytest.raises(ArtifactError, match=r"guarded\.onnx does not flag by the threshold"):
        runs_of(broken, [1], seed=0)[0](1)


def test_pictures_beyond_memory_are_refused(tmp_path):
    both = open_both(
        write_guard(tmp_path / "g", bare=bare_graph()), bare=None, device="cpu", threads=1
    )
    with pytest.raises(InvalidArgumentError, match="Pass smaller --batch-sizes"):
        runs_of(both, [1 << 50], seed=0)


def test_the_cpu_is_unknown_where_nothing_states_it(tmp_path):
    assert cpu_name(tmp_path / "none") == "unknown"
    (tmp_path / "info").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name(tmp_path / "info") == "Some CPU @ 2 GHz"
