"""Layers found and read by hooks, whatever the network does around them."""

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from training.attacks.layers import FeatureMap, feature_maps, features_of, recorded_outputs

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5


class _Network(nn.Module):
    """One ReLU in place that serves twice, a layer that is never called, one that answers twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 2)
        self.first = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.second = nn.Conv2d(3, 3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.idle = nn.Conv2d(3, 3, 3)
        self.pair = _Pair()
        self.runs_of_head = 0

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.second(self.relu(self.first(images))))
        features, _ = self.pair(features)
        self.runs_of_head += 1
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class _Pair(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, features


def _hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_feature_maps_stand_in_the_order_of_the_first_calls() -> None:
    network = _Network()
    assert feature_maps(network, IMAGES[:1]) == [
        FeatureMap("first", 3, 4, 4),
        FeatureMap("relu", 3, 4, 4),
        FeatureMap("second", 3, 2, 2),
    ]
    assert _hooks(network) == 0


def test_a_plain_callable_shows_no_layers() -> None:
    network = _Network()
    assert feature_maps(network.forward, IMAGES[:1]) == []


def test_features_are_what_the_layer_answered_before_the_next_one_overwrote_it() -> None:
    network = _Network()
    expected = network.first(IMAGES)
    assert float(expected.detach().min()) < 0
    assert torch.equal(features_of(network, "first", IMAGES), expected)
    assert torch.equal(features_of(network, "relu", IMAGES), expected.relu())
    assert network.runs_of_head == 0
    assert torch.equal(features_of(network, None, IMAGES), network(IMAGES))
    assert _hooks(network) == 0


def test_every_call_is_recorded_before_it_is_overwritten() -> None:
    network = _Network()
    with recorded_outputs([network.first, network.relu]) as outputs:
        network(IMAGES)
    before = network.first(IMAGES)
    after = network.second(before.relu()).relu()
    assert all(
        torch.equal(one, other)
        for one, other in zip(outputs, [before, before.relu(), after], strict=True)
    )
    assert _hooks(network) == 0


def test_no_hook_stays_behind_when_the_network_fails() -> None:
    network, wrong = _Network(), torch.zeros(2, 5, 8, 8)
    for attempt in (
        lambda: feature_maps(network, wrong),
        lambda: features_of(network, "relu", wrong),
    ):
        with pytest.raises(RuntimeError):
            attempt()
    with pytest.raises(RuntimeError), recorded_outputs([network.first]):
        network(wrong)
    assert _hooks(network) == 0


@pytest.mark.parametrize("layer", ["third", ""])
def test_an_unknown_layer_is_refused(layer: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"no layer '{layer}'; .* head, first, second"):
        features_of(_Network(), layer, IMAGES)
    with pytest.raises(InvalidArgumentError, match="none, as it is no torch module"):
        features_of(lambda images: images, "first", IMAGES)


@pytest.mark.parametrize("layer", ["idle", "pair"])
def test_a_layer_that_gives_no_tensor_is_refused(layer: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"layer '{layer}' does not answer"):
        features_of(_Network(), layer, IMAGES)
