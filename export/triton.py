"""A Triton model repository out of an artifact folder.

    REPOSITORY/
      inference_service.yaml      with `storage_uri` only; Triton looks at folders alone
      NAME/
        config.pbtxt              settings of all versions
        labels.txt                class names, for Triton's classification extension
        VERSION/
          model.onnx              guarded.onnx, byte for byte
          manifest.json           the artifact's, and manifest.sig where it is signed

Versions are never overwritten: what clients may rely on stays what it was. A further version joins
if it has the same inputs, outputs and class names; `config.pbtxt` is then written anew, last, and
lists every version that is there. Other models of the repository are not touched.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from export.kserve import TRITON_RELEASE, inference_service
from export.triton_config import LABELS_FILE, Settings, config_text, is_untouched
from export.triton_interface import Interface, Tensor, read_interface
from prn_guard.artifact import VerifiedArtifact, unchecked_signature, verify_artifact
from prn_guard.contract import GRAPH_FILE, MANIFEST_FILE, SIGNATURE_FILE, Manifest
from prn_guard.errors import ArtifactError, InvalidArgumentError, StorageError
from prn_guard.files import sha256_of, write_bytes

CONFIG_FILE: Final = "config.pbtxt"
MODEL_FILE: Final = "model.onnx"
SERVICE_FILE: Final = "inference_service.yaml"


@dataclass(frozen=True)
class Repository:
    """What was written."""

    model: Path
    versions: tuple[int, ...]
    interface: Interface
    sha256: str
    """Of model.onnx of the version that was asked for."""
    service: Path | None

    def rows(self) -> list[tuple[str, str]]:
        """The facts for people."""
        versions = ", ".join(map(str, self.versions))
        return [
            ("model", str(self.model)),
            ("versions", versions),
            ("sha256 of model.onnx", self.sha256),
            ("input", _as_text(self.interface.input)),
            *(("output", _as_text(output)) for output in self.interface.outputs),
            ("InferenceService", str(self.service or "none: no --storage-uri")),
        ]

    def record(self) -> dict[str, Any]:
        """The facts for `--json`."""
        return {
            "model": str(self.model),
            "versions": list(self.versions),
            "sha256": self.sha256,
            "input": asdict(self.interface.input),
            "outputs": [asdict(output) for output in self.interface.outputs],
            "inference_service": str(self.service) if self.service else None,
        }


def write_repository(
    artifact: Path,
    out: Path,
    settings: Settings,
    *,
    storage_uri: str | None = None,
    triton_release: str = TRITON_RELEASE,
    public_key: Path | None = None,
) -> Repository:
    """Put the artifact into the model repository `out`, as one version of one model.

    Args:
        artifact: what `python -m export guard` wrote; every file of it is verified.
        out: the repository; made if it is missing.
        settings: how to serve the model. Of all its versions: the last command's count.
        storage_uri: where the repository will lie; writes an InferenceService if given.
        triton_release: tag of Triton's container image in it.
        public_key: whose signature the artifact must have; None asks for none.

    Raises:
        InvalidArgumentError: the version is there with another graph; the model was not written by
            this command, has other inputs, outputs or classes, or was edited; Triton cannot serve
            the graph; `storage_uri` is no URI.
        ArtifactError: the artifact, or a version that is there, is damaged; `manifest.sig` is no
            signature, or no plain file of the artifact.
        StorageError: something could not be written. Nothing half-written stays.
    """
    service = None
    if storage_uri is not None:
        service = out / SERVICE_FILE
        text = inference_service(settings, storage_uri, triton_release=triton_release)
        content = _service_head(settings.name) + text
        _refuse_foreign_service(service, settings.name)
    verified = verify_artifact(artifact, public_key=public_key)
    signature = verified.signature or unchecked_signature(artifact)
    interface = read_interface(verified.manifest, verified.graph)
    sha256 = _stated_sha256(verified.manifest)
    model = out / settings.name
    there = _versions_there(model, interface)
    if there.get(settings.version, sha256) != sha256:
        raise InvalidArgumentError(
            f"{model} has a version {settings.version} with another graph, which clients may rely "
            f"on. Give --version {max(there) + 1}."
        )
    versions = tuple(sorted({*there, settings.version}))
    config = config_text(interface, settings, versions)
    with _staging_beside(out) as staging:
        new = staging / settings.name
        if settings.version not in there:
            _fill_version(new / str(settings.version), verified, signature)
        write_bytes(new / LABELS_FILE, _labels(interface))
        write_bytes(new / CONFIG_FILE, config.encode())
        versions = _put_in_place(new, model, settings, interface, versions)
    if service is not None:
        write_bytes(service, content.encode())
    return Repository(model, versions, interface, sha256, service)


def _versions_there(model: Path, interface: Interface) -> dict[int, str]:
    """Versions that an earlier command wrote, with the digests of their graphs."""
    if not model.exists():
        return {}
    entries = sorted(model.iterdir()) if model.is_dir() else []
    folders = [entry for entry in entries if entry.name.isdecimal()]
    if not folders or not all((folder / MANIFEST_FILE).is_file() for folder in folders):
        raise InvalidArgumentError(
            f"{model} is there, but was not written by this command: not all that it holds are "
            f"versions with a {MANIFEST_FILE}. Choose another --name, or another --out."
        )
    config = model / CONFIG_FILE
    if config.exists() and not is_untouched(config.read_text("utf-8", errors="replace")):
        raise InvalidArgumentError(
            f"{config} was edited since it was written, and would be replaced. Move it away, and "
            "give its settings as options."
        )
    return {int(folder.name): _checked_version(folder, interface) for folder in folders}


def _checked_version(folder: Path, interface: Interface) -> str:
    manifest, path = Manifest.read(folder), folder / MODEL_FILE
    if not path.is_file() or sha256_of(path) != _stated_sha256(manifest):
        raise ArtifactError(
            f"{path} is not the file that {MANIFEST_FILE} beside it describes. Restore it, or "
            "remove that version."
        )
    found = read_interface(manifest, path.read_bytes())
    if found != interface:
        raise InvalidArgumentError(
            f"{folder} serves {found}; the artifact has {interface}. Versions of one model share "
            "their inputs, outputs and class names: choose another --name."
        )
    return _stated_sha256(manifest)


def _stated_sha256(manifest: Manifest) -> str:
    digests = [entry.sha256 for entry in manifest.files if entry.name == GRAPH_FILE]
    if len(digests) != 1:
        raise ArtifactError(
            f"The manifest lists {GRAPH_FILE} {len(digests)} times; expected once. Export the "
            "guard anew."
        )
    return digests[0]


def _fill_version(folder: Path, verified: VerifiedArtifact, signature: bytes | None) -> None:
    """Write the very bytes that were verified; the artifact's files may have changed since."""
    write_bytes(folder / MODEL_FILE, verified.graph)
    write_bytes(folder / MANIFEST_FILE, verified.text)
    if signature is not None:
        write_bytes(folder / SIGNATURE_FILE, signature)


def _as_text(tensor: Tensor) -> str:
    return f"{tensor.name}: {tensor.data_type} {['N', *(tensor.dims or [1])]}"


def _labels(interface: Interface) -> bytes:
    return "".join(f"{name}\n" for name in interface.class_names).encode()


@contextlib.contextmanager
def _staging_beside(out: Path) -> Iterator[Path]:
    """A folder on the repository's file system where a polling Triton does not look."""
    place = out.resolve().parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.resolve().name}.", dir=place))
    except OSError as error:
        raise StorageError(
            f"No folder can be made beside {out}: {error}. Choose another --out."
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(
    new: Path, model: Path, settings: Settings, interface: Interface, versions: tuple[int, ...]
) -> tuple[int, ...]:
    """Rename what is new into the repository: the version first, what lists it last.

    Returns:
        The versions listed: those that another command wrote meanwhile are not dropped.
    """
    version = settings.version
    moved: Path | None = None
    try:
        if not model.exists():
            model.parent.mkdir(exist_ok=True)
            new.rename(model)
            return versions
        if (new / str(version)).exists():
            moved = (new / str(version)).rename(model / str(version))
        found = {int(e.name) for e in model.iterdir() if e.name.isdecimal() and e.is_dir()}
        if found != set(versions):
            versions = tuple(sorted(found))
            write_bytes(new / CONFIG_FILE, config_text(interface, settings, versions).encode())
        for name in (LABELS_FILE, CONFIG_FILE):
            (new / name).replace(model / name)
    except (OSError, StorageError) as error:
        if moved is not None:
            shutil.rmtree(moved, ignore_errors=True)
        raise StorageError(
            f"{model} could not be put in place: {error}. The repository must lie on the same file "
            "system as the folder that holds it."
        ) from error
    return versions


def _service_head(name: str) -> str:
    return f"# Written by prn-guard: python -m export triton --name {name}\n"


def _refuse_foreign_service(path: Path, name: str) -> None:
    """One service serves the whole repository: a second would serve the same models again."""
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(
        _service_head(name)
    ):
        raise InvalidArgumentError(
            f"{path} was written by hand or for another model, and serves the whole repository "
            "already. Leave --storage-uri out, or move that file away."
        )
