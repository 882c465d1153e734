"""How a command loads its classifier and its pictures: a dozen options, declared once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from training.cli import options

if TYPE_CHECKING:
    import torch

    from training.datasets import Pictures, Split
    from training.datasets.fitting import Shape
    from training.targets import LoadedTarget

PARAMETER: Final = "loading"


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What the command line said of how target and pictures are read."""

    weights: options.WeightsOption = None
    resize: options.ResizeOption = None
    limit: options.LimitOption = None
    data_folder: options.DataFolderOption = None
    input_shape: options.ShapeOption = None
    input_mean: options.MeanOption = None
    input_std: options.StdOption = None
    pixel_range: options.RangeOption = None
    channel_order: options.OrderOption = None

    def target(self, spec: str) -> "LoadedTarget":
        """The classifier that `--target` names."""
        from training.targets import InputOptions, load_target

        stated = InputOptions.parse(
            shape=self.input_shape,
            mean=self.input_mean,
            std=self.input_std,
            pixel_range=self.pixel_range,
            channel_order=self.channel_order,
        )
        return load_target(spec, weights=self.weights, input_options=stated)

    def pictures(
        self, spec: str, split: "Split", size: "Shape", class_count: int | None = None
    ) -> "Pictures":
        """The pictures that `spec` names, brought to `size`."""
        from training.datasets import load_pictures

        return load_pictures(
            spec,
            split=split,
            size=size,
            resize=self.resize,
            limit=self.limit,
            class_count=class_count,
            data_folder=self.data_folder,
        )


def with_loading(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes a `Loading` named `loading`, the options that make one."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        named = {field.name: given.pop(field.name) for field in fields(Loading)}
        command(**given, **{PARAMETER: Loading(**named)})

    own = inspect.signature(command, eval_str=True).parameters.values()
    hints = get_type_hints(Loading, include_extras=True)
    options_of_it = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(Loading)
    ]
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in own
        if parameter.name != PARAMETER
    ]
    wrapped.__signature__ = inspect.Signature([*kept, *options_of_it])  # type: ignore[attr-defined]
    return wrapped


def device_named(name: str) -> "torch.device":
    """The device that `--device` names.

    Raises:
        InvalidArgumentError: there is no such device here.
    """
    import torch

    from prn_guard.errors import InvalidArgumentError

    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError(
            "--device cuda: torch finds no GPU here. Leave the option out to work on the CPU, or "
            "check the driver and that torch's build has CUDA."
        )
    return torch.device(name)
