"""Torchvision's classifiers, with files and without a network."""

import urllib.error
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torchvision

from prn_guard.errors import TargetError
from prn_guard.nn.target import state_digest
from training.targets import InputOptions, load_target, restore_target, save_target_state
from training.targets.torchvision_models import build_model, find_model

NAME = "squeezenet1_1"


def _model(classes: int = 1000) -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(NAME, weights=None, num_classes=classes).eval()


def _checkpoint(folder: Path, classes: int = 1000) -> str:
    torch.save(_model(classes).state_dict(), folder / "w.pt")
    return str(folder / "w.pt")


def test_names_are_found_with_and_without_the_prefix() -> None:
    assert find_model("resnet18") == find_model("torchvision:resnet18") == "resnet18"
    with pytest.raises(TargetError, match=r"neither path/to/file\.py:factory.*mean .*resnet18"):
        find_model("resnet-18")
    with pytest.raises(TargetError, match="nor a classifier"):
        find_model("fasterrcnn_resnet50_fpn")


def test_a_checkpoint_gets_the_default_input_of_its_name(tmp_path: Path) -> None:
    loaded = load_target(f"torchvision:{NAME}", weights=_checkpoint(tmp_path))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    assert loaded.target.spec.shape == (3, 224, 224)
    assert loaded.class_count == 1000
    with torch.no_grad():
        assert torch.equal(loaded.target(images), _model()((images - mean) / std))


def test_a_finetuned_checkpoint_sets_the_number_of_classes_and_comes_back(tmp_path: Path) -> None:
    options = InputOptions.parse(shape="3x64x64", mean="0.5", std="0.5")
    weights = _checkpoint(tmp_path, classes=7)
    loaded = load_target(NAME, weights=weights, input_options=options)
    assert (loaded.class_count, loaded.target.spec.shape) == (7, (3, 64, 64))
    assert loaded.target.spec.mean == (0.5, 0.5, 0.5)
    save_target_state(loaded.target, tmp_path / "state.safetensors")
    digest = state_digest(loaded.target)
    restored = restore_target(NAME, loaded.target.spec, tmp_path / "state.safetensors", digest)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restored(images), loaded.target(images))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="do not belong to this classifier"):
        load_target("squeezenet1_0", weights=_checkpoint(tmp_path))


def test_without_weights_there_is_no_classifier() -> None:
    with pytest.raises(TargetError, match=r"needs weights.*--weights DEFAULT"):
        load_target(NAME)


def test_unknown_weights_are_answered_with_the_choices() -> None:
    with pytest.raises(TargetError, match=r"neither a file.*DEFAULT, IMAGENET1K_V1"):
        load_target(NAME, weights="imagenet")


@pytest.mark.parametrize(
    "weights", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"]
)
def test_named_weights_are_downloaded_by_torchvision(
    monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    urls = []

    def download(url: str, *_: object, **__: object) -> dict[str, torch.Tensor]:
        urls.append(url)
        return _model().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    loaded = load_target(NAME, weights=weights)
    assert urls == [torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url]
    assert state_digest(loaded.target.classifier) == state_digest(_model())


def test_a_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(TargetError, match=r"downloaded from https://.*no route.*give its path"):
        load_target(NAME, weights="DEFAULT")


def test_vision_transformers_are_built_for_the_height() -> None:
    with torch.device("meta"):
        model = build_model("vit_b_16", {}, 64)
        with pytest.raises(TargetError, match=r"cannot build vit_b_16 .* 65 high.*--input-shape"):
            build_model("vit_b_16", {}, 65)
    assert model.state_dict()["encoder.pos_embedding"].shape == (1, 17, 768)


@pytest.mark.parametrize("head", ["aux1.fc1.weight", "fc.weight"])
def test_googlenet_renormalises_as_its_weights_expect(head: str) -> None:
    with torch.device("meta"):
        model = build_model("googlenet", {head: torch.zeros(1)}, 224)
    assert model.transform_input
    assert model.aux_logits == head.startswith("aux1")
