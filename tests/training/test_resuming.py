"""Work that an earlier run left: gone on with only where it is the same request."""

from pathlib import Path

import pytest

from prn_guard.errors import InvalidArgumentError
from training.resuming import check_same_request

OUT = Path("bank.safetensors")


def test_the_same_request_passes() -> None:
    check_same_request({"seed": 1, "norm": "l2", "older": 0}, {"seed": 1, "norm": "l2"}, OUT, "it")


def test_everything_that_differs_is_named() -> None:
    before, now = {"seed": 1, "norm": "l2", "steps": 4}, {"seed": 2, "norm": "l2", "steps": 5}
    with pytest.raises(InvalidArgumentError) as refused:
        check_same_request(before, now, OUT, "a bank")
    message = str(refused.value)
    assert message.startswith(
        "bank.safetensors holds a bank with another seed (1 there, 2 now), steps (4 there, 5 now)."
    )
    assert "norm" not in message
    assert "Choose another --out, or give --restart" in message


@pytest.mark.parametrize("before", [None, [], "text", {}])
def test_what_is_no_request_is_another(before: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"another seed \(None there, 2 now\)"):
        check_same_request(before, {"seed": 2}, OUT, "a bank")
