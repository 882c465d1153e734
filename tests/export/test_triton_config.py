"""config.pbtxt, read by Triton's own schema, against the graph as onnx tells it."""

import math
from dataclasses import replace

import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as schema

from export.triton_config import Settings, as_numbers, config_text, is_untouched, quoted
from export.triton_interface import Interface, Tensor
from prn_guard.errors import InvalidArgumentError

INTERFACE = Interface(
    input=Tensor("image", "TYPE_UINT8", (8, 16, 3)),
    outputs=(Tensor("logits", "TYPE_FP32", (4,)), Tensor("label", "TYPE_INT64", ())),
    logits="logits",
    class_names=("a", "b", "c", "d"),
)
FLOATS = replace(INTERFACE, input=Tensor("data", "TYPE_FP32", (3, 8, 16)))


def parse(text: str) -> schema.ModelConfig:
    return text_format.Parse(text, schema.ModelConfig())


def test_every_field_of_the_default_configuration():
    config = parse(config_text(INTERFACE, Settings(), [2, 1]))
    expected = schema.ModelConfig(name="guarded", backend="onnxruntime", max_batch_size=64)
    expected.input.add(name="image", data_type=schema.TYPE_UINT8, dims=[8, 16, 3])
    expected.output.add(
        name="logits", data_type=schema.TYPE_FP32, dims=[4], label_filename="labels.txt"
    )
    label = expected.output.add(name="label", data_type=schema.TYPE_INT64, dims=[1])
    label.reshape.SetInParent()
    expected.version_policy.specific.versions.extend([1, 2])
    expected.instance_group.add(kind=schema.ModelInstanceGroup.KIND_GPU, count=1)
    expected.dynamic_batching.preferred_batch_size.extend([8, 32])
    expected.dynamic_batching.max_queue_delay_microseconds = 1000
    cuda = expected.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
    cuda.parameters["use_tf32"] = "0"
    for size in (1, 8, 32, 64):
        for kind in ("zero", "random"):
            sample = expected.model_warmup.add(name=f"{kind} x {size}", batch_size=size)
            tensor = sample.inputs["image"]
            tensor.data_type = schema.TYPE_UINT8
            tensor.dims.extend([8, 16, 3])
            setattr(tensor, f"{kind}_data", True)
    assert config == expected


def test_every_setting_arrives():
    settings = Settings(
        name="a-1",
        version=7,
        max_batch_size=48,
        preferred_batch_sizes=(16, 4, 16),
        max_queue_delay_us=0,
        instances=3,
        gpus=(2, 0),
        warm_up=False,
    )
    config = parse(config_text(INTERFACE, settings, [7]))
    assert (config.name, config.max_batch_size) == ("a-1", 48)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 3, [2, 0])
    assert list(config.version_policy.specific.versions) == [7]
    assert not config.model_warmup


def test_batching_stays_on_without_preferred_sizes():
    config = parse(config_text(INTERFACE, Settings(max_batch_size=4), [1]))
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.preferred_batch_size
    assert [sample.batch_size for sample in config.model_warmup] == [1, 1, 4, 4]


def test_on_the_cpu_no_cuda_option_is_given():
    config = parse(config_text(INTERFACE, Settings(device="cpu", instances=2), [1]))
    (group,) = config.instance_group
    assert (group.kind, group.count) == (group.KIND_CPU, 2)
    assert not config.HasField("optimization")


def test_float_inputs_are_warmed_up_with_zeros_only():
    config = parse(config_text(FLOATS, Settings(), [1]))
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8, 32, 64]
    for sample in config.model_warmup:
        assert sample.inputs["data"].zero_data
        assert math.prod(sample.inputs["data"].dims) == 3 * 8 * 16
        assert sample.inputs["data"].data_type == schema.TYPE_FP32


@given(st.text())
def test_any_name_comes_back(name):
    interface = Interface(Tensor(name, "TYPE_FP32", (1,)), (Tensor(name, "TYPE_BOOL", ()),), "", ())
    text = config_text(interface, Settings(), [1])
    assert text.isascii()
    config = parse(text)
    assert (config.input[0].name, config.output[0].name) == (name, name)
    assert list(config.model_warmup[0].inputs) == [name]
    assert config.max_batch_size == 64


def test_an_injected_field_stays_a_name():
    name = 'x"\nmax_batch_size: 1 # \\" \\n'
    config = parse(f"name: {quoted(name)}")
    assert config == schema.ModelConfig(name=name)


def test_an_edit_is_seen():
    text = config_text(INTERFACE, Settings(), [1])
    assert is_untouched(text)
    assert not is_untouched(text.replace("count: 1", "count: 2"))
    assert not is_untouched(text + "parameters { }\n")
    assert not is_untouched('name: "guarded"\n')
    assert not is_untouched("")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "Guarded"}, "'Guarded'"),
        ({"name": ""}, "a letter first"),
        ({"name": "../evil"}, "a-z, 0-9"),
        ({"name": "1st"}, "a letter first"),
        ({"name": "a-"}, "no '-' last"),
        ({"name": "a\n"}, "a-z"),
        ({"name": "a" * 48}, "at most 47"),
        ({"version": 0}, "version is 0"),
        ({"version": 2**31}, "at most 2147483647"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_queue_delay_us": -1}, "at least 0"),
        ({"instances": 0}, "instances is 0"),
        ({"preferred_batch_sizes": (8, 65)}, "65 is not between 1 and max_batch_size 64"),
        ({"preferred_batch_sizes": (0,)}, "0 is not between"),
        ({"device": "cuda"}, "'cuda'; expected 'gpu' or 'cpu'"),
        ({"device": "cpu", "gpus": (0,)}, "go with device 'gpu'"),
        ({"gpus": (-1,)}, "numbered from 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Settings(**setting)


def test_names_at_the_bounds_are_taken():
    assert Settings(name="a").name == "a"
    assert Settings(name="a" * 46 + "9", max_batch_size=1, max_queue_delay_us=0).preferred == ()


def test_lists_of_numbers():
    assert as_numbers("--gpus", None) is None
    assert as_numbers("--gpus", "0, 1") == (0, 1)
    for text in ("", "1,", "one", "1.5"):
        with pytest.raises(InvalidArgumentError, match=r"--gpus is .* commas"):
            as_numbers("--gpus", text)


def test_onnx_and_triton_agree_on_the_names_of_types():
    from export.triton_interface import _DATA_TYPES

    stems = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}
    for onnx_name, data_type in _DATA_TYPES.items():
        assert data_type in schema.DataType.keys()  # noqa: SIM118 - an enumeration, no mapping
        stem = data_type.removeprefix("TYPE_")
        stem = stems.get(stem, stem)
        assert onnx_name == f"tensor({stem.lower()})"
        assert stem in onnx.TensorProto.DataType.keys()  # noqa: SIM118
