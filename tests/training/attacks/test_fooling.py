"""Predictions over all pictures, and the share of them that a perturbation changes."""

import torch

from tests.training.small import VALUES, everything, gray_pictures, linear_classifier
from training.attacks.fooling import EVALUATION_BATCH, fooling_rate, predict


def test_predictions_cover_all_pictures_in_order() -> None:
    known = gray_pictures(EVALUATION_BATCH + 20)
    classifier = linear_classifier(torch.ones(VALUES), -VALUES / 2)
    bright = everything(known).mean(dim=(1, 2, 3)) > 0.5
    answers = predict(classifier, known)
    assert answers.dtype == torch.int64
    assert torch.equal(answers == 1, bright)
    assert 0.2 < float(bright.double().mean()) < 0.8


def test_a_perturbed_picture_is_clipped_before_it_is_classified() -> None:
    known = gray_pictures(8)
    classifier = linear_classifier(torch.ones(VALUES), -0.8 * VALUES)
    half = torch.zeros(1, 12, 12)
    half[:, :6] = 3.0
    # Unclipped, three more on half of the pixels would push the mean beyond 0.8.
    assert predict(classifier, known, half).tolist() == [0] * 8
    assert predict(classifier, known, half + 0.5).tolist() == [1] * 8


def test_the_fooling_rate_is_against_the_clean_prediction() -> None:
    clean, perturbed = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([0, 2, 2, 0, 0])
    assert fooling_rate(clean, perturbed) == 0.6
    assert fooling_rate(clean, clean) == 0.0
