"""What is measured is what a server would receive, and what the modules themselves answer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import SCORE, assert_close
from tests.training.small import Mirror
from training.datasets import Pictures
from training.evaluation import outcomes
from training.evaluation.outcomes import Answers, answers, as_delivered
from training.guard.folder import load_bank


def _all(pictures: Pictures) -> torch.Tensor:
    return pictures.batch(torch.arange(len(pictures)))


def test_pictures_travel_as_8_bit_values(test_set: Pictures) -> None:
    images = _all(test_set)[:20]
    added = (torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0)) - 0.5) * 2
    seen = as_delivered(images, added)
    pixels = np.rint(255 * np.clip(images.numpy() + added.numpy(), 0, 1).astype(np.float32))
    assert np.array_equal(seen.numpy(), pixels.astype(np.uint8).astype(np.float32) / 255)
    assert set(np.unique(pixels)) >= {0, 255}
    assert torch.equal(as_delivered(images, None), images)


def test_clean_pictures_are_on_the_8_bit_grid_already(test_set: Pictures) -> None:
    images = _all(test_set)
    assert torch.equal(as_delivered(images, torch.zeros(images.shape[1:])), images)


@pytest.mark.parametrize("perturbed", [True, False])
def test_answers_are_those_of_the_modules(
    guarded: GuardedClassifier,
    test_set: Pictures,
    guard_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    perturbed: bool,
) -> None:
    guarded.rectifier = Mirror()
    perturbation = load_bank(guard_folder).unseen[0] if perturbed else None
    guarded.detector.threshold.fill_(np.median(answers(guarded, test_set, perturbation).scores))
    monkeypatch.setattr(outcomes, "BATCH", 32)  # the last of three batches is smaller
    found = answers(guarded, test_set, perturbation)
    seen = as_delivered(_all(test_set), perturbation)
    with torch.no_grad():
        rectified = guarded.rectifier(seen)
        scores = guarded.detector(seen - rectified).numpy()
        bare = guarded.target(seen).argmax(dim=1).numpy()
        through = guarded.target(rectified).argmax(dim=1).numpy()
    assert_close(found.scores, scores, SCORE)
    assert np.array_equal(found.labels, test_set.labels.numpy())
    assert np.array_equal(found.bare, bare)
    assert np.array_equal(found.rectified, through)
    assert np.array_equal(found.flagged, found.scores > float(guarded.detector.threshold))
    assert 0 < found.flagged.sum() < len(found.flagged)
    assert (bare != through)[found.flagged].any()
    assert (bare != through)[~found.flagged].any()
    assert np.array_equal(found.guarded, np.where(found.flagged, through, bare))


def test_right_is_agreement_with_the_true_label() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    found = Answers(np.array([0, 1, 2]), nothing, nothing, nothing, nothing * 1.0, nothing > 0)
    assert found.right(np.array([0, 2, 2])).tolist() == [1.0, 0.0, 1.0]
    assert found.right(nothing).dtype == np.float64
