"""A KServe InferenceService that serves a Triton model repository.

Fields: `serving.kserve.io/v1beta1`, as KServe's `config/runtimes/kserve-tritonserver.yaml` runtime
takes them.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from export.triton_config import Settings
from prn_guard.errors import InvalidArgumentError

TRITON_RELEASE: Final = "25.12-py3"
"""KServe's own default, 23.05, does not know the CUDA option that turns TF32 off."""

_MEMORY = "8Gi"
_CPUS = "2"
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_Tree = Mapping[str, "str | _Tree"]


def inference_service(
    settings: Settings, storage_uri: str, *, triton_release: str = TRITON_RELEASE
) -> str:
    """The YAML text of the InferenceService; every value in it is a quoted string.

    Args:
        settings: how the model is served; its name becomes the service's.
        storage_uri: where the repository will lie, as `s3://bucket/path` or `pvc://claim/path`.
        triton_release: tag of Triton's container image; 24.07 or later.

    Raises:
        InvalidArgumentError: `storage_uri` is no URI, or `triton_release` no tag of an image.
    """
    if not _URI.fullmatch(storage_uri):
        raise InvalidArgumentError(
            f"The storage URI is {storage_uri!r}; expected a scheme and a path without spaces, as "
            "s3://bucket/path or pvc://claim/path."
        )
    if not _TAG.fullmatch(triton_release):
        raise InvalidArgumentError(
            f"The Triton release is {triton_release!r}; expected an image's tag, as "
            f"{TRITON_RELEASE}."
        )
    usual = {"cpu": _CPUS, "memory": _MEMORY}
    # In a pod GPUs are numbered from 0: to use number 1, it must hold two.
    gpu = {"nvidia.com/gpu": str(max(settings.gpus, default=0) + 1)}
    resources = usual | gpu if settings.device == "gpu" else usual
    model: _Tree = {
        "modelFormat": {"name": "triton"},
        "runtime": "kserve-tritonserver",
        "runtimeVersion": triton_release,
        "protocolVersion": "v2",
        "storageUri": storage_uri,
        "resources": {"requests": resources, "limits": resources},
    }
    return _yaml(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": settings.name},
            "spec": {"predictor": {"model": model}},
        }
    )


def _yaml(tree: _Tree, indent: str = "") -> str:
    lines = []
    for key, value in tree.items():
        if isinstance(value, str):
            lines.append(f"{indent}{key}: {json.dumps(value)}\n")  # JSON's strings are YAML's too
        else:
            lines.append(f"{indent}{key}:\n{_yaml(value, indent + '  ')}")
    return "".join(lines)
