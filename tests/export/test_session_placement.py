"""What a session says of a graph's placement."""

import pytest

from export import placement
from export.placement import session_placement
from prn_guard.errors import ArtifactError, DeviceError
from tests.export.small_graphs import model, node


def test_what_a_session_says() -> None:
    """The part that needs no GPU: a session on the CPU puts every node there."""
    small = model([node("Relu", "x", "r"), node("MaxPool", "r", "y", kernel_shape=[2, 2])])
    content = small.SerializeToString()
    answer, found = placement._ask(content, "cpu")
    assert (answer.basis, answer.nodes, answer.on_cpu, found) == ("session", 2, (), ())
    wizardry = model([node("Wizardry", "x", "y")]).SerializeToString()
    with pytest.raises(ArtifactError, match="does not load"):
        placement._ask(wizardry, "cpu")


def test_a_session_without_a_gpu_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match="Install prn-guard"):
        session_placement(model([node("Relu", "x", "y")]).SerializeToString())
