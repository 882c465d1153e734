"""Options that several commands of `python -m training` share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="The classifier: path/to/file.py:factory, a torchvision name such as resnet18, or "
        "path/to/model.onnx.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Its checkpoint: .safetensors, .pt, .pth (never unpickled). An ONNX file has its own.",
    ),
]
ImagesOption = Annotated[
    str,
    typer.Option(
        "--images",
        help="Pictures: fashion-mnist, a folder with one subfolder per class or with idx files, "
        "or a tar with labels.csv.",
    ),
]
TestImagesOption = Annotated[
    str, typer.Option("--test-images", help="Pictures to report on; nothing is chosen by them.")
]
EpsilonOption = Annotated[
    str, typer.Option("--epsilon", help="Bound of the perturbations on [0, 1] pixels: 10/255.")
]
NormOption = Annotated[
    Literal["linf", "l2"], typer.Option("--norm", help="Norm that epsilon bounds.")
]
ResizeOption = Annotated[
    int | None,
    typer.Option("--resize", min=8, help="First bring each picture's shorter side to this length."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Use only this many pictures of each set.")
]
DataFolderOption = Annotated[
    Path | None,
    typer.Option("--data-folder", help="Where to look for Fashion-MNIST first."),
]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        help="Input of a plain module, or of an ONNX file of open size: CHANNELSxHEIGHTxWIDTH.",
    ),
]
MeanOption = Annotated[
    str | None, typer.Option("--input-mean", help="Its normalisation: 0.485,0.456,0.406.")
]
StdOption = Annotated[str | None, typer.Option("--input-std", help="Likewise: 0.229,0.224,0.225.")]
RangeOption = Annotated[
    int | None,
    typer.Option(
        "--pixel-range",
        help="1 for pixels in [0, 1], 255 for 0..255; an ONNX file does not say, so it must be "
        "given for one.",
    ),
]
OrderOption = Annotated[str | None, typer.Option("--channel-order", help="rgb, bgr or gray.")]
DeviceOption = Annotated[
    Literal["cpu", "cuda"], typer.Option("--device", help="Where to compute: cpu or cuda.")
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Throw away what an earlier run left at --out.")
]
AttackPrecisionOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        "--precision", help="That attacks differentiate in; guards are judged in float32."
    ),
]
OtherNormOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--other-norm",
        help="File of perturbations bounded in the norm that is not the guard's; may be repeated.",
    ),
]
PerturbationScaleOption = Annotated[
    Literal["1", "255"] | None,
    typer.Option("--perturbation-scale", help="The pixels it is for: [0, 1] or 0..255."),
]
PerturbationLayoutOption = Annotated[
    Literal["chw", "hwc"] | None,
    typer.Option("--perturbation-layout", help="Order of its axes; chw if not given."),
]
PerturbationOrderOption = Annotated[
    Literal["rgb", "bgr"] | None,
    typer.Option("--perturbation-order", help="Order of its channels; rgb if not given."),
]
PerturbationKeyOption = Annotated[
    str | None, typer.Option("--perturbation-key", help="Name of the array in the file.")
]
