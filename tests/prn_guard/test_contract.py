import pytest
from pydantic import ValidationError

from prn_guard.contract import InputSpec

GOOD = {
    "channels": 3,
    "height": 32,
    "width": 64,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
}


def test_good_specs():
    spec = InputSpec(**GOOD)
    assert spec.shape == (3, 32, 64)
    assert (spec.pixel_range, spec.channel_order) == (1, "rgb")
    gray = InputSpec(
        channels=1, height=8, width=4096, mean=(0.0,), std=(1.0,), channel_order="gray"
    )
    assert gray.shape == (1, 8, 4096)
    assert InputSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 2},
        {"channels": 4},
        {"height": 7},
        {"width": 4097},
        {"height": 32.5},
        {"mean": (0.5,)},
        {"std": (0.2, 0.2)},
        {"mean": (0.5,) * 4, "std": (0.2,) * 4},
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, -0.1, 0.2)},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"std": (float("inf"), 1.0, 1.0)},
        {"std": (1e-40, 1.0, 1.0)},
        {"mean": (1e39, 0.0, 0.0)},
        {"pixel_range": 256},
        {"channel_order": "gray"},
        {"channel_order": "hsv"},
        {"channels": 1, "mean": (0.5,), "std": (0.2,)},
        {"surprise": 1},
    ],
)
def test_bad_specs_are_refused(change):
    with pytest.raises(ValidationError):
        InputSpec(**{**GOOD, **change})


def test_spec_is_frozen():
    spec = InputSpec(**GOOD)
    with pytest.raises(ValidationError):
        spec.height = 16
