"""Input options: reading them, and completing them to an input spec."""

import pytest

from prn_guard.contract import InputSpec
from prn_guard.errors import InvalidArgumentError, TargetError
from training.targets import InputOptions

IMAGENET = InputSpec(
    channels=3, height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def test_texts_are_read() -> None:
    options = InputOptions.parse(
        shape="3X32x48", mean="0.485, 0.456,0.406", std="0.5", pixel_range=255, channel_order="bgr"
    )
    assert options == InputOptions((3, 32, 48), (0.485, 0.456, 0.406), (0.5,), 255, "bgr")
    assert InputOptions.parse().is_empty
    assert not options.is_empty


@pytest.mark.parametrize(
    ("shape", "mean", "message"),
    [
        ("28x28", None, "--input-shape is '28x28'.*1x28x28"),
        ("1,28,28", None, "--input-shape"),
        ("", None, "--input-shape"),
        ("3x32x32", "0.5;0.5", "--input-mean is '0.5;0.5'.*0.485,0.456,0.406"),
    ],
)
def test_texts_that_cannot_be_read_are_answered_with_an_example(
    shape: str, mean: str | None, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        InputOptions.parse(shape=shape, mean=mean)


def test_a_shape_alone_means_pixels_in_0_1_as_they_are() -> None:
    gray = InputOptions(shape=(1, 28, 28)).complete()
    assert gray == InputSpec(
        channels=1, height=28, width=28, mean=(0.0,), std=(1.0,), channel_order="gray"
    )
    color = InputOptions(shape=(3, 32, 48), mean=(0.5,)).complete()
    assert (color.mean, color.std, color.channel_order) == ((0.5,) * 3, (1.0,) * 3, "rgb")


def test_a_missing_shape_is_refused_with_the_option_to_give() -> None:
    with pytest.raises(TargetError, match="--input-shape"):
        InputOptions(mean=(0.5,)).complete()


def test_a_default_is_kept_where_nothing_else_is_said() -> None:
    assert InputOptions().complete(IMAGENET) == IMAGENET
    spec = InputOptions(shape=(3, 32, 48), std=(0.25,)).complete(IMAGENET)
    assert (spec.shape, spec.mean, spec.std) == ((3, 32, 48), IMAGENET.mean, (0.25,) * 3)
    assert InputOptions(pixel_range=1, channel_order="rgb").complete(IMAGENET) == IMAGENET


@pytest.mark.parametrize("options", [
    InputOptions(pixel_range=255),
    InputOptions(channel_order="bgr", mean=(0.5,)),
])  # fmt: skip
def test_another_scale_needs_its_own_mean_and_std(options: InputOptions) -> None:
    with pytest.raises(TargetError, match="--input-mean and --input-std"):
        options.complete(IMAGENET)
    full = InputOptions(mean=(127.0,), std=(128.0,), pixel_range=255).complete(IMAGENET)
    assert (full.mean, full.pixel_range) == ((127.0,) * 3, 255)


@pytest.mark.parametrize(
    "options",
    [
        InputOptions(shape=(2, 28, 28)),
        InputOptions(shape=(10**12, 28, 28)),
        InputOptions(shape=(3, 4, 28)),
        InputOptions(shape=(3, 28, 28), mean=(0.5, 0.5)),
        InputOptions(shape=(3, 28, 28), std=(0.0,)),
        InputOptions(shape=(3, 28, 28), mean=(float("nan"),)),
        InputOptions(shape=(3, 28, 28), pixel_range=2),
        InputOptions(shape=(3, 28, 28), channel_order="gray"),
        InputOptions(shape=(1, 28, 28), channel_order="rgb"),
    ],
)
def test_values_that_make_no_input_are_refused(options: InputOptions) -> None:
    with pytest.raises(InvalidArgumentError, match="Check --input-shape"):
        options.complete()
