"""The choice between the picture as it came and the rectified one."""

import pytest
import torch
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import Target
from tests.tolerances import LOGIT, SCORE, assert_close

COUNT = 9


@pytest.fixture
def guarded() -> GuardedClassifier:
    """A guard of random weights, its threshold so that four of nine pictures are flagged."""
    generator = torch.Generator().manual_seed(1)
    spec = InputSpec(channels=3, height=12, width=12, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, 4)
    )
    rectifier = build_rectifier(RectifierSpec(channels=3, factor=2, width=6, blocks=1))
    with torch.no_grad():
        for value in rectifier.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    detector = build_detector(DetectorSpec(), 12, 12)
    detector.weight.copy_(torch.randn(144, generator=generator) / 12)
    built = GuardedClassifier(Target(network, spec), rectifier, detector).eval()
    with torch.no_grad():
        detector.threshold.copy_(built(_images()).score.median())
    return built


def _images() -> Tensor:
    return torch.rand(COUNT, 3, 12, 12, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_unflagged_pictures_get_the_bare_targets_very_logits(guarded: GuardedClassifier) -> None:
    answer, bare = guarded(_images()), guarded.target(_images())
    assert int(answer.flagged.sum()) == 4
    assert torch.equal(answer.logits[~answer.flagged], bare[~answer.flagged])
    assert not torch.isclose(answer.logits, bare).all(dim=1)[answer.flagged].any()


@torch.no_grad()
def test_flagged_pictures_get_the_logits_of_the_rectified_one(guarded: GuardedClassifier) -> None:
    images = _images()
    answer = guarded(images)
    assert torch.equal(answer.rectified, guarded.rectifier(images))
    through = guarded.target(answer.rectified)
    assert torch.equal(answer.logits[answer.flagged], through[answer.flagged])
    assert torch.equal(answer.score, guarded.detector(images - answer.rectified))
    assert torch.equal(answer.label, answer.logits.argmax(dim=1))
    assert answer.label.dtype == torch.int64


@torch.no_grad()
def test_a_score_on_the_threshold_is_not_flagged(guarded: GuardedClassifier) -> None:
    score, threshold = guarded(_images()).score, guarded.detector.threshold
    middle = int(score.argsort()[COUNT // 2])
    assert float(score[middle]) == float(threshold)
    assert not guarded(_images()).flagged[middle]
    threshold.copy_(threshold.nextafter(torch.tensor(-torch.inf)))
    assert guarded(_images()).flagged[middle]


@torch.no_grad()
def test_the_order_of_a_batch_does_not_matter(guarded: GuardedClassifier) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(4))
    guarded.detector.threshold += 2 * SCORE.absolute
    straight, shuffled = guarded(_images()), guarded(_images()[order])
    assert 0 < int(straight.flagged.sum()) < COUNT
    assert torch.equal(shuffled.flagged, straight.flagged[order])
    assert torch.equal(shuffled.label, straight.label[order])
    assert_close(shuffled.logits, straight.logits[order], LOGIT)
    assert_close(shuffled.score, straight.score[order], SCORE)


@torch.no_grad()
@pytest.mark.parametrize("threshold", [-torch.inf, torch.inf])
def test_all_or_nothing_is_rectified(guarded: GuardedClassifier, threshold: float) -> None:
    guarded.detector.threshold.fill_(threshold)
    answer, images = guarded(_images()), _images()
    chosen = answer.rectified if threshold < 0 else images
    assert answer.flagged.tolist() == [threshold < 0] * COUNT
    assert torch.equal(answer.logits, guarded.target(chosen))
