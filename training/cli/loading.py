"""Options that come in bundles, declared once: how classifier, pictures, perturbations are read."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from training.cli import options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.datasets import Pictures, Split
    from training.datasets.fitting import Shape
    from training.targets import LoadedTarget


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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the command line said of perturbations made elsewhere."""

    perturbation_scale: options.PerturbationScaleOption = None
    perturbation_layout: options.PerturbationLayoutOption = None
    perturbation_order: options.PerturbationOrderOption = None
    perturbation_key: options.PerturbationKeyOption = None

    def perturbations(self, path: Path, shape: "Shape") -> "Tensor":
        """The perturbations `(P, C, H, W)` in `path`, for pixels in [0, 1]."""
        from training.perturbations.loading import load_perturbations

        return load_perturbations(
            path,
            shape,
            scale=None if self.perturbation_scale is None else int(self.perturbation_scale),
            layout=self.perturbation_layout,
            channel_order=self.perturbation_order,
            key=self.perturbation_key,
        )


def unbundled(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of every bundle, a dataclass, that it takes as an argument."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    bundles: dict[str, Any] = {
        one.name: one.annotation for one in own if is_dataclass(one.annotation)
    }

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in fields(bundle)})
        command(**given)

    parameters = []
    for one in own:
        if one.name in bundles:
            parameters += _parameters(one.annotation)
        else:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapped


def _parameters(bundle: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(bundle, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(bundle)
    ]


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
