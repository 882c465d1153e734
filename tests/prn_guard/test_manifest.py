"""The manifest on disk: what is written comes back, and what was edited is refused."""

import json

import pytest

from prn_guard.artifact import read_artifact
from prn_guard.contract import Manifest
from prn_guard.errors import ArtifactError
from prn_guard.session import open_session


def test_manifest_survives_a_round_trip(folder, tmp_path):
    manifest, _ = read_artifact(folder)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["class_names"].reverse(),
        lambda m: m["detection"].update(target_false_positive_rate=0.001),
        lambda m: m["trained_against"].update(epsilon=0.5),
        lambda m: m["input"].update(mean=[0.1, 0.1, 0.1]),
        lambda m: m.pop("manifest_sha256"),
    ],
)
def test_a_manifest_edited_after_the_export_is_refused(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="changed since it was exported"):
        open_session(folder)


def test_a_manifest_laid_out_otherwise_is_the_same(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8, sort_keys=True))
    open_session(folder)
