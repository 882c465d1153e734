"""The InferenceService, read back line by line."""

import json
from typing import Any

import pytest

from export.kserve import inference_service
from export.triton_config import Settings
from prn_guard.errors import InvalidArgumentError


def read(text: str) -> dict[str, Any]:
    """A mapping of nested mappings and JSON strings, indented by two."""
    root: dict[str, Any] = {}
    open_at = [root]
    for line in text.splitlines():
        depth, rest = divmod(len(line) - len(line.lstrip(" ")), 2)
        assert rest == 0
        key, separator, value = line.strip().partition(":")
        assert separator == ":"
        del open_at[depth + 1 :]
        assert key not in open_at[depth]
        if value:
            assert value[0] == " "
            open_at[depth][key] = json.loads(value)
        else:
            open_at[depth][key] = {}
            open_at.append(open_at[depth][key])
    return root


def model_of(settings: Settings, **options: str) -> dict[str, Any]:
    model: dict[str, Any] = read(inference_service(settings, "s3://b/c", **options))["spec"][
        "predictor"
    ]["model"]
    return model


def test_every_field():
    resources = {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert read(inference_service(Settings(name="mine"), "pvc://claim/a%20b")) == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "mine"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton"},
                    "runtime": "kserve-tritonserver",
                    "runtimeVersion": "25.12-py3",
                    "protocolVersion": "v2",
                    "storageUri": "pvc://claim/a%20b",
                    "resources": {"requests": resources, "limits": resources},
                }
            }
        },
    }


def test_gpus_are_counted_from_zero():
    assert model_of(Settings(gpus=(1,)))["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert model_of(Settings(gpus=(0, 3)))["resources"]["requests"]["nvidia.com/gpu"] == "4"


def test_none_is_asked_for_on_the_cpu():
    assert set(model_of(Settings(device="cpu"))["resources"]["limits"]) == {"cpu", "memory"}


def test_another_release():
    model = model_of(Settings(), triton_release="24.12-py3-min")
    assert model["runtimeVersion"] == "24.12-py3-min"


def test_quotes_cannot_end_a_value():
    uri = 's3://b/"\\c#:{}'
    service = read(inference_service(Settings(), uri))
    assert service["spec"]["predictor"]["model"]["storageUri"] == uri


@pytest.mark.parametrize("uri", ["", "bucket/path", "s3://", "s3://a b", "s3://a\nb", "S3://ü"])
def test_what_is_no_uri_is_refused(uri):
    with pytest.raises(InvalidArgumentError, match="expected a scheme"):
        inference_service(Settings(), uri)


@pytest.mark.parametrize("tag", ["", "25.12 py3", "-py3", "a:b", "x" * 129])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(InvalidArgumentError, match="an image's tag"):
        inference_service(Settings(), "s3://b/c", triton_release=tag)
