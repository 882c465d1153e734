"""Baselines keep pictures pictures; labels behind them are those of the modules, step by step."""

import numpy as np
import pytest
import torch

from tests.tolerances import FIGURE, FILTERED, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.evaluation import baselines as module
from training.evaluation.baselines import BASELINES, baseline_figures, transformed_labels


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("shape", [(3, 1, 12, 12), (2, 3, 7, 11)])
def test_shape_and_range_are_kept_and_pictures_do_not_mix(
    name: str, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(shape, generator=generator).round(decimals=1)
    found = BASELINES[name](images)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert_close(BASELINES[name](images.flip(0)), found.flip(0), FILTERED)
    plain = torch.ones(shape)
    assert_close(BASELINES[name](plain), plain, FILTERED)


def test_no_defense_is_none() -> None:
    images = torch.rand(2, 3, 5, 5)
    assert torch.equal(BASELINES["no defense"](images), images)


def test_perturbed_then_delivered_then_transformed_then_classified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BATCH", 32)  # the last of three batches is smaller
    of, target = pictures(70, seed=3), trained_target()
    stack = 0.4 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    shares = []
    for perturbation in stack:
        pixels = np.rint(255 * np.clip(everything(of).numpy() + perturbation.numpy(), 0, 1))
        coarse = np.rint(pixels / 255 * 7) / 7
        with torch.no_grad():
            expected = target(torch.from_numpy(coarse.astype(np.float32))).argmax(dim=1)
        found = transformed_labels(target, BASELINES["bit depth 3"], of, perturbation)
        assert torch.equal(found, expected)
        shares.append(float((expected == of.labels).double().mean()))
    figures = baseline_figures(target, "bit depth 3", of, {"both": stack, "one": stack[:1]})
    assert_close(figures["accuracy"]["both"]["value"], np.mean(shares), FIGURE)
    assert_close(figures["accuracy"]["one"]["value"], shares[0], FIGURE)
    assert figures["accuracy"]["both"]["n"] == 70
    assert figures["clean_accuracy"]["value"] == 1.0 > min(shares)
