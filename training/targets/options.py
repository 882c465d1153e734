"""What the user says about the input of a classifier that does not say it itself."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from prn_guard.contract import InputSpec
from prn_guard.errors import InvalidArgumentError, TargetError

Number = TypeVar("Number", int, float)

_EXAMPLES = {"shape": "1x28x28", "mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}


@dataclass(frozen=True)
class InputOptions:
    """Parts of an `InputSpec`; None leaves a part to the classifier's own default.

    Args:
        shape: `(C, H, W)`.
        mean: one value per channel, or one for all, on the scale of `pixel_range`.
        std: likewise.
        pixel_range: 1 or 255, what the classifier takes before its normalisation.
        channel_order: `rgb`, `bgr` or `gray`.
    """

    shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pixel_range: int | None = None
    channel_order: str | None = None

    @classmethod
    def parse(
        cls,
        *,
        shape: str | None = None,
        mean: str | None = None,
        std: str | None = None,
        pixel_range: int | None = None,
        channel_order: str | None = None,
    ) -> Self:
        """Read the options as the command line takes them: `1x28x28`, `0.485,0.456,0.406`, ...

        Raises:
            InvalidArgumentError: a text that cannot be read, or a value out of range.
        """
        numbers = None if shape is None else _parse_list(shape, "shape", "x", int)
        if numbers is not None and len(numbers) != 3:
            raise _unreadable("shape", shape)
        return cls(
            shape=None if numbers is None else (numbers[0], numbers[1], numbers[2]),
            mean=None if mean is None else _parse_list(mean, "mean", ",", float),
            std=None if std is None else _parse_list(std, "std", ",", float),
            pixel_range=pixel_range,
            channel_order=channel_order,
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return all(getattr(self, field.name) is None for field in fields(self))

    def complete(self, default: InputSpec | None = None) -> InputSpec:
        """Fill what was not said from `default`, or with pixels in [0, 1] and no normalisation.

        Raises:
            TargetError: no shape was said and there is no default; or the range or the channel
                order differs from the default's while mean and std, which depend on them, were
                not said.
            InvalidArgumentError: the values make no input spec.
        """
        if default is None:
            values = _unscaled(self.shape)
        else:
            self._refuse_half_scale(default)
            values = default.model_dump()
        if self.shape is not None:
            values |= dict(zip(("channels", "height", "width"), self.shape, strict=True))
        is_gray = values["channels"] == 1
        said = {
            "mean": _per_channel(self.mean, is_gray=is_gray),
            "std": _per_channel(self.std, is_gray=is_gray),
            "pixel_range": self.pixel_range,
            "channel_order": self.channel_order,
        }
        values |= {name: value for name, value in said.items() if value is not None}
        try:
            return InputSpec.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the input"
            raise InvalidArgumentError(
                f"The input options make no input: {place}: {first['msg']}. Check --input-shape, "
                "--input-mean, --input-std, --pixel-range and --channel-order."
            ) from error

    def _refuse_half_scale(self, default: InputSpec) -> None:
        changed = [
            f"{name} {value}"
            for name, value, usual in (
                ("--pixel-range", self.pixel_range, default.pixel_range),
                ("--channel-order", self.channel_order, default.channel_order),
            )
            if value not in {None, usual}
        ]
        if changed and (self.mean is None or self.std is None):
            raise TargetError(
                f"{' and '.join(changed)} departs from this classifier's default, whose mean and "
                "std then no longer apply. Give --input-mean and --input-std on that scale, in "
                "that order, too."
            )


def _unscaled(shape: tuple[int, int, int] | None) -> dict[str, Any]:
    if shape is None:
        raise TargetError(
            "The classifier's input shape is not known. Give --input-shape CHANNELSxHEIGHTxWIDTH "
            "(1x28x28, say), or let the factory return a prn_guard.nn.target.Target, which states "
            "it."
        )
    is_gray = shape[0] == 1
    return {
        "mean": _per_channel((0.0,), is_gray=is_gray),
        "std": _per_channel((1.0,), is_gray=is_gray),
        "channel_order": "gray" if is_gray else "rgb",
    }


def _per_channel(values: tuple[float, ...] | None, *, is_gray: bool) -> tuple[float, ...] | None:
    if values is None or len(values) != 1:
        return values
    return values if is_gray else values * 3


def _parse_list(
    text: str, name: str, separator: str, number: Callable[[str], Number]
) -> tuple[Number, ...]:
    try:
        return tuple(number(part) for part in text.lower().split(separator))
    except ValueError as error:
        raise _unreadable(name, text) from error


def _unreadable(name: str, text: str | None) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"--input-{name} is {text!r}, which cannot be read. Write it as {_EXAMPLES[name]}."
    )
