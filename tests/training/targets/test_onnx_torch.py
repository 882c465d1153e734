"""Converted ONNX classifiers against onnxruntime, and their gradients against a twin by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.target import Target, state_digest
from tests.tolerances import CONVOLUTION, assert_close
from tests.training import tiny_onnx as tiny
from training.targets import onnx_torch
from training.targets.checkpoints import check_state
from training.targets.onnx_files import OnnxClassifier, parse_onnx, read_onnx
from training.targets.onnx_runs import Reference
from training.targets.onnx_torch import convert, to_torch

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "imagenet_models"


def _read(model: ModelProto) -> OnnxClassifier:
    return parse_onnx(tiny.content(model), name="tiny.onnx")


def _spec(classifier: OnnxClassifier, pixel_range: int = 1) -> InputSpec:
    channels, height, width = classifier.shape
    return InputSpec.model_validate(
        {
            "channels": channels, "height": height, "width": width, "mean": (0.0,) * channels,
            "std": (1.0,) * channels, "pixel_range": pixel_range, "layout": classifier.layout,
            "channel_order": "gray" if channels == 1 else "rgb",
        }
    )  # fmt: skip


def _module(classifier: OnnxClassifier) -> nn.Module:
    return to_torch(classifier, _spec(classifier)).requires_grad_(requires_grad=False)


def _images(channels: int = 1, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, channels, tiny.SIDE, tiny.SIDE, generator=generator)


@pytest.mark.parametrize("opset", tiny.OPSETS)
def test_answers_and_gradients_are_the_twins(opset: int) -> None:
    classifier = _read(tiny.model(opset=opset))
    module = _module(classifier)
    images = _images().requires_grad_()
    exact = images.detach().double().requires_grad_()
    logits, expected = module(images), tiny.twin(exact)
    assert_close(logits.detach().numpy(), expected.detach().numpy(), CONVOLUTION)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((logits * direction).sum(), images)
    (exact_gradient,) = torch.autograd.grad((expected * direction.double()).sum(), exact)
    assert_close(gradient.numpy(), exact_gradient.numpy(), CONVOLUTION)
    assert not module.training
    check_state(module)
    assert state_digest(module) == state_digest(to_torch(classifier, _spec(classifier)))


def test_a_target_with_channels_last_takes_the_same_pictures() -> None:
    classifier = _read(tiny.nhwc())
    assert (classifier.layout, classifier.shape) == ("nhwc", (3, tiny.SIDE, tiny.SIDE))
    target = Target(to_torch(classifier, _spec(classifier)), _spec(classifier))
    images = _images(3)
    assert_close(target(images).numpy(), tiny.twin(images.double(), 3).numpy(), CONVOLUTION)
    (answer,) = Reference(classifier.model)(images.permute(0, 2, 3, 1).numpy())
    assert_close(target(images).numpy(), answer, CONVOLUTION)


def test_a_softmax_at_the_end_is_left_to_the_file() -> None:
    classifier = _read(tiny.softmax())
    assert classifier.ends_in_softmax
    module = _module(classifier)
    images = _images()
    assert_close(module(images).numpy(), tiny.twin(images.double()).numpy(), CONVOLUTION)
    (probabilities,) = Reference(classifier.model)(images.numpy())
    assert_close(module(images).softmax(dim=1).numpy(), probabilities, CONVOLUTION)


def test_a_softmax_before_the_end_is_part_of_the_network() -> None:
    turn = [
        helper.make_node("Softmax", ["logits"], ["s"], axis=1),
        helper.make_node("Mul", ["s", "two"], ["out"]),
    ]
    tensors = tiny.weights() | {"two": np.array([2.0], np.float32)}
    model = tiny.model(
        [*tiny.network(), *turn], outputs=(("out", ("n", tiny.CLASSES)),), tensors=tensors
    )
    classifier = _read(model)
    assert not classifier.ends_in_softmax
    module = _module(classifier)
    expected = 2 * tiny.twin(_images().double()).softmax(dim=1)
    assert_close(module(_images()).numpy(), expected.numpy(), CONVOLUTION)


def test_of_several_outputs_the_logits_are_taken() -> None:
    classifier = _read(tiny.several_outputs())
    assert classifier.output_name == "logits"
    module = _module(classifier)
    assert_close(module(_images()).numpy(), tiny.twin(_images().double()).numpy(), CONVOLUTION)


def test_a_fixed_batch_is_freed() -> None:
    shape, outputs = (1, 1, tiny.SIDE, tiny.SIDE), (("logits", (1, tiny.CLASSES)),)
    classifier = _read(tiny.model(shape=shape, outputs=outputs))
    module = _module(classifier)
    assert_close(module(_images()).numpy(), tiny.twin(_images().double()).numpy(), CONVOLUTION)


def test_weights_behind_another_name_and_a_stated_training_mode_convert() -> None:
    generator = np.random.default_rng(1)
    batch = {key: generator.random(tiny.WIDTH).astype(np.float32) for key in ("s", "m", "q")}
    nodes = tiny.network()
    nodes[0].input[2] = "alias"
    nodes[1].input[0] = "normal"
    nodes[1:1] = [
        helper.make_node("BatchNormalization", ["h1", "s", "alias", "m", "q"], ["normal"],
                         training_mode=0),
    ]  # fmt: skip
    nodes[:0] = [helper.make_node("Identity", ["b"], ["alias"])]
    classifier = _read(tiny.model(nodes, tensors=tiny.weights() | batch))
    module = _module(classifier)
    (expected,) = Reference(classifier.model)(_images().numpy())
    assert_close(module(_images()).numpy(), expected, CONVOLUTION)


class _Broken(nn.Module):
    """A conversion that misbehaves in one way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Any:
        logits = tiny.twin(images)
        if self.way == "state":
            self.calls += 1
        return {
            "state": lambda: logits,
            "two": lambda: [logits, logits],
            "random": lambda: logits + 1e-6 * torch.randn(logits.shape),
            "off": lambda: logits + 1e-3 * logits.abs().max(),
            "nan": lambda: logits * torch.nan,
            "constant": lambda: logits.detach() + 0 * images.sum(),
            "cut": logits.detach,
            "infinite": lambda: logits + (images - images.detach()).abs().sqrt().sum() * 1.0,
        }[self.way]()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("state", "changes its weights or buffers"),
        ("two", "does not answer with one tensor"),
        ("random", "differently when asked again"),
        ("off", r"differ from onnxruntime's by 1\.\de-03"),
        ("nan", "answers the same pictures differently|gradient is not finite|differ"),
        ("constant", "gradient is zero everywhere"),
        ("cut", "does not require grad"),
        ("infinite", "gradient is not finite"),
    ],
)
def test_a_conversion_that_misbehaves_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, way: str, message: str
) -> None:
    classifier = _read(tiny.model())
    monkeypatch.setattr(onnx_torch, "_CONVERTERS", {"this one": lambda _: _Broken(way)})
    with pytest.raises(TargetError, match=f"this one: .*({message})"):
        to_torch(classifier, _spec(classifier))


def test_the_next_converter_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = _read(tiny.model(opset=13))
    second = onnx_torch._CONVERTERS["onnx2torch"]
    converters = {"broken": lambda _: _Broken("off"), "onnx2torch": second}
    monkeypatch.setattr(onnx_torch, "_CONVERTERS", converters)
    assert convert(classifier, _spec(classifier)).converter == "onnx2torch"


@pytest.mark.parametrize(
    ("name", "opset"), [("mobilenet_v2_imagenet.onnx", 20), ("squeezenet_imagenet.onnx", 13)]
)
def test_published_classifiers_convert(name: str, opset: int) -> None:
    if not (REAL / name).is_file():
        pytest.skip(f"{name} is not here")
    classifier = read_onnx(REAL / name)
    assert (classifier.opset, classifier.input_name) == (opset, "image")
    assert (classifier.layout, classifier.class_count) == ("nchw", 1000)
    assert convert(classifier, _spec(classifier, 255)).relative_difference <= 1e-4
