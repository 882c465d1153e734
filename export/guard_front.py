"""The guard as it stands in front of a classifier: picture in, the picture to classify out.

Rectify, score, choose, in float32 but for a rectifier of float16 weights. A picture that is not
flagged leaves on the classifier's own scale without a detour, so that the classifier sees the very
bits it would have seen without the guard.
"""

from typing import Final, cast, final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.exporter import to_onnx
from prn_guard.contract import FLAGGED, IMAGE, RECTIFIED, SCORE, InputSpec, InputTensor
from prn_guard.nn.detector import Detector

CHOSEN: Final = "chosen"
THRESHOLD: Final = "threshold"
FRONT_OPSET: Final = 18
"""Its operators mean the same from opset 13 to 25, so that the guard can take the classifier's."""


@final
class GuardFront(nn.Module):
    """Rectifier, detector and choice, between what a client sends and what the classifier takes.

    Args:
        rectifier: `(B, C, H, W)` float32 in [0, 1] to the same.
        detector: fitted, with its threshold.
        spec: how the classifier wants its pictures.
        tensor: what the client sends.
        with_rectified: answer with the rectified picture too.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        rectifier: nn.Module,
        detector: Detector,
        spec: InputSpec,
        tensor: InputTensor,
        *,
        with_rectified: bool = False,
    ) -> None:
        super().__init__()
        self.with_rectified = with_rectified
        self.rectifier, self.detector = rectifier, detector
        self.spec, self.tensor = spec, tensor
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(shape), persistent=False)
        self.normalises = any(spec.mean) or any(value != 1 for value in spec.std)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return (CHOSEN, SCORE, FLAGGED, *((RECTIFIED,) if self.with_rectified else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The picture to classify, in the classifier's scale and layout; score; flag.

        With `with_rectified` also the rectified picture, `(B, H, W, C)` in [0, 1], RGB or gray.

        Args:
            image: as `tensor` says, `(B, H, W, C)` uint8 or float32 on the classifier's scale.
        """
        pixels, own = self._both_scales(image)
        rectified = self.rectifier(pixels)
        score = self.detector(pixels - rectified)
        flagged = score > self.detector.threshold
        choice = flagged[:, None, None, None]
        scaled = self._ordered(self._normalised(self._ranged(rectified)))
        answers = torch.where(choice, scaled, own), score, flagged
        if not self.with_rectified:
            return answers
        return *answers, rectified.permute(0, 2, 3, 1).contiguous()

    def _both_scales(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """`image` as `(B, C, H, W)` in [0, 1], and as the classifier takes it."""
        if self.tensor.dtype == "float32":
            return self._unit(image), image
        if self.tensor.layout == "nhwc":
            # As bytes: a quarter of the traffic of transposing float32 (2.2 ms against 3.0 at batch
            # 32 and 224 x 224).
            image = image.permute(0, 3, 1, 2).contiguous()
        integers = image.float()
        pixels = integers / 255
        # Not by way of [0, 1] for 0..255: dividing and multiplying again is not exact.
        ranged = integers if self.spec.pixel_range == 255 else pixels
        return pixels, self._ordered(self._normalised(ranged))

    def _ranged(self, pixels: Tensor) -> Tensor:
        return pixels * self.spec.pixel_range if self.spec.pixel_range != 1 else pixels

    def _normalised(self, ranged: Tensor) -> Tensor:
        if self.spec.channel_order == "bgr":
            ranged = ranged.flip(1)
        return (ranged - self.mean) / self.std if self.normalises else ranged

    def _ordered(self, images: Tensor) -> Tensor:
        nhwc = self.spec.layout == "nhwc"
        return images.permute(0, 2, 3, 1).contiguous() if nhwc else images

    def _unit(self, own: Tensor) -> Tensor:
        if self.spec.layout == "nhwc":
            own = own.permute(0, 3, 1, 2).contiguous()
        if self.normalises:
            own = own * self.std + self.mean
        if self.spec.channel_order == "bgr":
            own = own.flip(1)
        return own / self.spec.pixel_range if self.spec.pixel_range != 1 else own


def front_model(front: GuardFront) -> onnx.ModelProto:
    """Export the front, with the input `image` and its `outputs`."""
    dtype = cast("torch.dtype", getattr(torch, front.tensor.dtype))
    example = torch.zeros(2, *front.tensor.shape(front.spec), dtype=dtype)
    model = to_onnx(front, example, opset=FRONT_OPSET, image=IMAGE, outputs=front.outputs)
    _set_threshold_apart(model.graph, float(front.detector.threshold))
    return model


def _set_threshold_apart(graph: onnx.GraphProto, threshold: float) -> None:
    """Give the comparison a constant of its own.

    The exporter keeps equal constants once: a threshold of 0 would be the SVM's bias of 0 too, and
    whoever changed one would change the other.
    """
    (comparison,) = (node for node in graph.node if node.op_type == "Greater")
    shared = comparison.input[1]
    comparison.input[1] = THRESHOLD
    value = np.array(threshold, dtype=np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(value, THRESHOLD))
    if not any(shared in node.input for node in graph.node):
        (unused,) = (item for item in graph.initializer if item.name == shared)
        graph.initializer.remove(unused)
