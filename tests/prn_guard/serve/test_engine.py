"""Sessions of the served guard: their answers, their further outputs, their warm-up."""

import asyncio

import numpy as np
import pytest
from onnx import TensorProto, helper

from prn_guard.contract import InputSpec, InputTensor
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.preparation import to_pixels, to_tensor
from prn_guard.serve.alarm import AttackAlarm
from prn_guard.serve.engine import Engine
from prn_guard.serve.errors import MalformedError, StoppingError
from prn_guard.serve.metrics import Metrics
from prn_guard.serve.service import Limits, Service
from prn_guard.serve.tensors import datatype_of, output_arrays, to_bytes
from prn_guard.serve.watch import Watch
from tests.prn_guard.serve.running import PATIENCE, HeldEngine


def with_extras(model):
    """`halves`, a row a picture; `sizes`, four rows always; `words`, of no datatype of ours."""
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Cast", ["halved"], ["halves"], to=TensorProto.FLOAT16),
            helper.make_node("Shape", ["pixels"], ["sizes"]),
            helper.make_node("Cast", ["score"], ["words"], to=TensorProto.STRING),
        ]
    )
    graph.output.extend(
        [
            helper.make_tensor_value_info("halves", TensorProto.FLOAT16, ["N", 8, 8, 3]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
            helper.make_tensor_value_info("words", TensorProto.STRING, ["N"]),
        ]
    )


def name_extras(record):
    record["outputs"] += ["halves", "sizes", "words"]


@pytest.fixture
def engine(write_guard):
    return Engine(write_guard(model=with_extras, manifest=name_extras), ["cpu", "cpu"], max_batch=5)


def test_answers_are_the_oracles_on_every_session(engine, pictures, expected):
    oracle = expected(pictures)
    assert engine.sessions == 2
    assert engine.providers == ["CPUExecutionProvider"] * 2
    for session in range(2):
        engine.warm_up(session)
        outcome = engine.run(pictures, session=session, extras=("halves",))
        for name, values in oracle.items():
            np.testing.assert_array_equal(getattr(outcome.verdict, name), values)
        np.testing.assert_array_equal(outcome.extras["halves"], (pictures / 2).astype(np.float16))


def test_extras_are_outputs_with_a_row_a_picture(engine):
    assert engine.extras == {
        "halves": ("tensor(float16)", ("N", 8, 8, 3)),
        "words": ("tensor(string)", ("N",)),
    }


def test_arrays_that_cannot_be_written_to_are_run(engine, pictures, expected):
    frozen = np.frombuffer(pictures.tobytes(), np.uint8).reshape(pictures.shape)
    assert not frozen.flags.writeable
    score = engine.run(frozen).verdict.score
    np.testing.assert_array_equal(score, expected(pictures)["score"])


def test_outcomes_are_cut_and_joined(engine, pictures, expected):
    whole = engine.run(pictures[:7], extras=("halves",))
    parts = [whole.rows(start, stop) for start, stop in ((0, 3), (3, 4), (4, 7))]
    joined = type(whole).concatenate(parts)
    np.testing.assert_array_equal(joined.verdict.logits, whole.verdict.logits)
    np.testing.assert_array_equal(joined.extras["halves"], whole.extras["halves"])
    np.testing.assert_array_equal(parts[1].verdict.label, expected(pictures)["label"][3:4])


def test_a_folder_that_is_exchanged_meanwhile_is_refused(write_guard, monkeypatch):
    folder = write_guard()
    from prn_guard.serve import engine as module

    opened = []

    def open_session(*arguments, **more):
        manifest, session = original(*arguments, **more)
        opened.append(session)
        return manifest.model_copy(update={"opset": 20 + len(opened)}), session

    original = module.open_session
    monkeypatch.setattr(module, "open_session", open_session)
    with pytest.raises(ArtifactError, match="was exchanged"):
        Engine(folder, ["cpu", "cpu"])


def test_devices_that_are_none(folder):
    with pytest.raises(InvalidArgumentError, match="expected 'cpu' or 'cuda'"):
        Engine(folder, ["gpu"])


@pytest.fixture
def service(engine):
    limits = Limits(max_batch=4, max_queue=9, max_delay=0.0, max_timeout=5.0)
    metrics = Metrics(threshold=0.5, model="tiny")
    return Service("tiny", engine, metrics=metrics, watch=None, limits=limits)


def test_outputs_that_are_offered(service):
    known = [output["name"] for output in service.model_metadata()["outputs"]]
    assert known == ["flagged", "score", "label", "logits", "halves"]
    assert service.model_metadata()["outputs"][-1] == {
        "name": "halves", "datatype": "FP16", "shape": [-1, 8, 8, 3],
    }  # fmt: skip
    assert service.outputs(None) == (tuple(known), ("halves",))
    assert service.outputs(["logits", "halves"]) == (("logits", "halves"), ("halves",))
    assert service.outputs(["label"]) == (("label",), ())
    for name in ("sizes", "words", "rectified", ""):
        with pytest.raises(MalformedError, match="There is no output"):
            service.outputs([name])


def test_deadlines_are_bounded(service):
    assert service.deadline(None) == 5
    assert service.deadline(0.5) == 0.5
    assert service.deadline(1e300) == 5
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MalformedError):
            service.deadline(wrong)


def test_who_is_in_a_hurry_gives_up_what_is_in_flight(folder):
    """As after a second signal."""

    async def main():
        held = HeldEngine(folder)
        metrics = Metrics(threshold=0.5, model="tiny")
        alarm = AttackAlarm(false_positive_rate=0.01, calibration_pictures=500)
        limits = Limits(max_batch=4, max_queue=9, max_delay=0.0, max_timeout=PATIENCE)
        watch = Watch(held.manifest, metrics, alarm)
        service = Service("tiny", held, metrics=metrics, watch=watch, limits=limits)
        await service.start()
        held.let_go.clear()

        async def ask():
            with service.admit("rest"):
                await service.classify(np.zeros((1, 8, 8, 3), np.uint8), request_id="x")

        asked = [asyncio.create_task(ask()) for _ in range(3)]
        assert await asyncio.to_thread(held.entered.acquire, timeout=PATIENCE)
        hurry = asyncio.Event()
        stopping = asyncio.create_task(service.stop(PATIENCE, hurry))
        await asyncio.sleep(0)
        assert not service.ready
        hurry.set()
        assert await stopping is False
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        held.let_go.set()
        return outcomes, metrics.render().decode()

    outcomes, rendered = asyncio.run(main())
    assert [type(outcome) for outcome in outcomes] == [StoppingError] * 3
    assert 'prn_guard_requests_total{outcome="stopping",protocol="rest"} 3.0' in rendered


def test_arrays_by_name_and_as_bytes(engine, pictures, expected):
    outcome = engine.run(pictures[:2], extras=("halves",))
    arrays = output_arrays(engine.manifest, outcome)
    assert list(arrays) == ["flagged", "score", "label", "logits", "halves"]
    assert [datatype_of(values) for values in arrays.values()] == [
        "BOOL", "FP32", "INT64", "FP32", "FP16",
    ]  # fmt: skip
    oracle = expected(pictures[:2])
    assert to_bytes(arrays["label"]) == oracle["label"].astype("<i8").tobytes()
    assert to_bytes(arrays["logits"].T) == oracle["logits"].T.astype("<f4").tobytes()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("order", "reach"), [("rgb", 1), ("bgr", 255), ("bgr", 1)])
def test_pixels_come_back_from_what_the_graph_takes(pictures, layout, order, reach):
    mean, std = np.array([0.4, 0.5, 0.6]) * reach, np.array([0.2, 0.3, 0.25]) * reach
    spec = InputSpec(
        channels=3, height=8, width=8, mean=tuple(mean), std=tuple(std), pixel_range=reach,
        channel_order=order,
    )  # fmt: skip
    for dtype in ("float32", "uint8"):
        tensor = InputTensor(name="x", dtype=dtype, layout=layout)
        back = to_pixels(to_tensor(pictures, spec, tensor), spec, tensor)
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, pictures)


def test_values_that_no_pixel_gives_become_the_nearest(pictures):
    spec = InputSpec(channels=3, height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    tensor = InputTensor(name="x", dtype="float32", layout="nhwc")
    values = np.full((1, 8, 8, 3), -3.0, np.float32)
    values[0, 0] = 7.0
    values[0, 1] = 100.4 / 255
    back = to_pixels(values, spec, tensor)
    assert (back[0, 0] == 255).all()
    assert (back[0, 1] == 100).all()
    assert (back[0, 2:] == 0).all()
