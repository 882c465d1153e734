"""`export guard` as a whole: forms of torch targets, the bare graph, signatures."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn

from export.classifier_graph import from_torch
from export.deliveries import as_images, as_integers
from export.pipeline import ClientInput, ExportOptions, export_guard, guarded_graph
from prn_guard import Guard
from prn_guard.contract import InputSpec
from prn_guard.errors import ArtifactError
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import Target
from prn_guard.preparation import to_tensor
from tests.commands import Run, assert_refused
from tests.export.conftest import Artifact
from tests.export.running import answers_of, no_work
from tests.export.small_classifiers import twin_model
from tests.tolerances import LOGIT, SCORE, assert_close
from tests.training.small import everything
from tests.training.tiny_guard import FIT, Workplace
from training.datasets import Pictures
from training.guard.folder import load_guard

Wrap = Callable[..., Path]
QUICK = ExportOptions(limit=20)


# A fit and an export by the command lines


@pytest.mark.usefixtures("_quick_work", "same_front")
def test_from_an_onnx_file_to_an_artifact(
    run: Run, fit: Run, work: Workplace, tmp_path: Path, test_set: Pictures
) -> None:
    (tmp_path / "net.onnx").write_bytes(twin_model(softmax=True).SerializeToString())
    ended = fit(
        *("fit", "--target", tmp_path / "net.onnx", "--pixel-range", 1, "--input-mean", 0.5),
        *("--input-std", 0.25, "--images", work.images, "--test-images", work.images),
        *("--epsilon", 0.15, *FIT, "--out", tmp_path / "guard"),
    )
    assert ended.code == 0, ended.err
    out = tmp_path / "out"
    ended = run("guard", tmp_path / "guard", "--out", out, "--input", "same", "--limit", 30)
    assert ended.code == 0, ended.err
    guard = Guard(out)
    assert guard.manifest.outputs == ("y", "logits", "label", "score", "flagged")
    content = (tmp_path / "net.onnx").read_bytes()
    assert guard.manifest.classifier.file_sha256 == hashlib.sha256(content).hexdigest()
    guarded, _ = load_guard(tmp_path / "guard")
    pixels = as_integers(everything(test_set))
    with torch.no_grad():
        expected = guarded(as_images(pixels))
    assert_close(guard.classify(pixels).score, expected.score, SCORE)


# torch targets


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_torch_target_on_its_own_scale(
    guard_folder: Path, artifact: Artifact, test_set: Pictures, tmp_path: Path, precision: str
) -> None:
    """The input `image`, normalised as the classifier wants it; same decisions as from pixels."""
    options = ExportOptions(client_input="same", precision=cast("Any", precision), limit=40)
    manifest = export_guard(guard_folder, tmp_path / "out", options)
    assert manifest.tensor.model_dump() == {"name": "image", "dtype": "float32", "layout": "nchw"}
    assert manifest.outputs == ("logits", "label", "score", "flagged")
    assert (manifest.classifier.source, manifest.opset) == ("torch", 20)
    pixels = as_integers(everything(test_set))
    given = answers_of(
        onnx.load(tmp_path / "out" / "guarded.onnx"),
        ((everything(test_set) - 0.5) / 0.25).numpy(),
    )
    verdict = Guard(tmp_path / "out").classify(pixels, batch_size=len(pixels))
    for name in ("logits", "label", "score", "flagged"):
        assert np.array_equal(given[name], getattr(verdict, name))
    if precision == "fp32":
        by_pixels = Guard(artifact.folder).classify(pixels, batch_size=len(pixels))
        assert_close(verdict.score, by_pixels.score, SCORE)
        assert np.array_equal(verdict.flagged, by_pixels.flagged)
        assert np.array_equal(verdict.label, by_pixels.label)
    else:
        assert manifest.detection.threshold != manifest.detection.fitted_threshold
        assert manifest.parity.flag_mismatches == manifest.parity.label_mismatches == 0


class _ChannelsLast(nn.Module):
    """A network whose own input has its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        planes = self.convolution(images.permute(0, 3, 1, 2)).relu()
        logits: Tensor = self.linear(planes.mean(dim=(2, 3)))
        return logits


def _blue_first(threshold: float) -> GuardedClassifier:
    """A classifier that takes 0..255, blue first, channels last, behind a random guard."""
    torch.manual_seed(0)
    spec = InputSpec(
        channels=3, height=10, width=9, mean=(104.0, 117.0, 123.0), std=(57.0, 58.0, 59.0),
        pixel_range=255, channel_order="bgr", layout="nhwc",
    )  # fmt: skip
    rectifier = build_rectifier(RectifierSpec(channels=3, factor=2, width=4, blocks=1, levels=3))
    detector = build_detector(DetectorSpec(), 10, 9)
    with torch.no_grad():
        for value in rectifier.parameters():
            value.normal_(std=0.1)
        detector.weight.normal_(std=0.1)
        detector.threshold.fill_(threshold)
    return GuardedClassifier(Target(_ChannelsLast(), spec), rectifier, detector).eval()


@pytest.mark.parametrize(
    ("client_input", "precision"), [("same", "fp32"), ("same", "fp16"), ("uint8-nhwc", "fp16")]
)
def test_blue_first_and_channels_last(client_input: ClientInput, precision: str) -> None:
    options = ExportOptions(client_input=client_input, precision=cast("Any", precision))
    pixels = np.random.default_rng(2).integers(0, 256, (40, 10, 9, 3)).astype(np.uint8)
    guarded = _blue_first(0.0)
    with torch.no_grad():
        guarded.detector.threshold.copy_(guarded(as_images(pixels)).score.median() + 1e-3)
        expected = guarded(as_images(pixels))
    classifier = from_torch(guarded.target, precision=options.precision)
    graph = guarded_graph(guarded, classifier, options)
    by_hand = (pixels[..., ::-1].astype(np.float32) - [104, 117, 123]) / [57, 58, 59]
    own = to_tensor(pixels, guarded.target.spec, graph.tensor)
    given = answers_of(graph.model, own)
    if client_input == "same":
        assert graph.tensor.shape(guarded.target.spec) == (10, 9, 3)
        assert_close(own, by_hand, LOGIT)
    score = expected.score.numpy()
    margin = 1e-3 if precision == "fp32" else 0.2
    clear = np.abs(score - float(guarded.detector.threshold)) > margin
    assert clear.sum() > (30 if precision == "fp32" else 5)
    assert np.array_equal(given["flagged"][clear], expected.flagged.numpy()[clear])
    agreed = given["flagged"] == expected.flagged.numpy()
    if precision == "fp32":
        assert_close(given["score"], score, SCORE)
        assert_close(given["logits"][agreed], expected.logits.numpy()[agreed], LOGIT)
    else:
        assert np.abs(given["logits"] - expected.logits.numpy())[agreed].max() < 0.01
    alone = answers_of(classifier.model, by_hand.astype(np.float32))["logits"]
    assert_close(given["logits"][~given["flagged"]], alone[~given["flagged"]], LOGIT)


# The bare graph


def test_the_bare_graph_is_verified_and_not_needed(artifact: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(artifact.folder, out)
    entry = artifact.manifest.files[1]
    content = (out / "bare.onnx").read_bytes()
    assert (entry.name, entry.size_bytes) == ("bare.onnx", len(content))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert onnx.load_from_string(content) == artifact.classifier.model
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    (out / "bare.onnx").write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"bare\.onnx has changed"):
        Guard(out)
    (out / "bare.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"bare\.onnx is missing"):
        Guard(out)


# Signatures


def _keys(folder: Path, name: str, key: Any = None) -> tuple[Path, Path]:
    key = key or Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, subject = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, subject))
    return private, public


@pytest.mark.usefixtures("quick_export")
def test_a_signed_export(run: Run, guard_folder: Path, tmp_path: Path) -> None:
    (mine, public), (_, other) = _keys(tmp_path, "mine"), _keys(tmp_path, "other")
    out = tmp_path / "out"
    command = ("guard", guard_folder, "--out", out, "--limit", 20)
    assert run(*command, "--sign", mine).code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "guarded.onnx", "manifest.json", "manifest.sig",
    ]  # fmt: skip
    assert Guard(out, public_key=public).manifest == Guard(out).manifest
    with pytest.raises(ArtifactError, match=r"no signature of manifest\.json by the key"):
        Guard(out, public_key=other)
    unsigned = run(*command)
    assert unsigned.code == 0
    assert "was signed; this one is not" in unsigned.out
    assert not (out / "manifest.sig").exists()
    with pytest.raises(ArtifactError, match=r"manifest\.sig is missing"):
        Guard(out, public_key=public)


def test_a_key_of_no_use_is_refused_before_the_work(
    run: Run, guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pipeline.load_guard", no_work)
    elliptic, public = _keys(tmp_path, "elliptic", generate_private_key(SECP256R1()))
    command = ("guard", guard_folder, "--out", tmp_path / "out", "--sign")
    assert_refused(run(*command, elliptic), "expected Ed25519")
    assert_refused(run(*command, public), "no PEM file of a private key")
    assert_refused(run(*command, tmp_path / "none.pem"), "The key cannot be used")
    assert not (tmp_path / "out").exists()
