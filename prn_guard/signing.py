"""The optional signature: Ed25519 (RFC 8032) over the exact bytes of `manifest.json`.

The manifest holds the digest of every other file, so that signing it signs the artifact. The
signature stands beside it in `manifest.sig`, 64 bytes. Keys are PEM files as openssl makes them:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prn_guard.contract import MANIFEST_FILE, MAX_MANIFEST_BYTES, SIGNATURE_FILE
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.files import write_bytes
from prn_guard.plain_files import read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE_BYTES: Final = 64
_MAX_KEY_BYTES: Final = 1 << 16


def verify(manifest: bytes, signature: bytes, public_key: Path) -> None:
    """Check that whoever holds the private key signed these very bytes.

    Args:
        manifest: the contents of `manifest.json`.
        signature: the contents of `manifest.sig`.
        public_key: a PEM file.

    Raises:
        ArtifactError: the signature is not of this manifest by this key.
        InvalidArgumentError: the key cannot be used, or the package for it is not installed.
    """
    key = _public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise ArtifactError(
            f"{SIGNATURE_FILE} is no signature of {MANIFEST_FILE} by the key {public_key}. The "
            "artifact was changed or signed by somebody else: fetch it again from its source, or "
            "pass the key of whoever exported it."
        ) from error


def sign_manifest(folder: Path, private_key: Path) -> None:
    """Sign the manifest of an artifact folder; writes `manifest.sig`, whole or not at all.

    Args:
        folder: an artifact folder, complete.
        private_key: a PEM file without a passphrase.

    Raises:
        ArtifactError: the folder has no manifest.
        InvalidArgumentError: the key cannot be used, or the package for it is not installed.
        StorageError: the signature could not be written.
    """
    key = _private_key(private_key)
    manifest = read_bounded(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    write_bytes(folder / SIGNATURE_FILE, key.sign(manifest))


def check_private_key(private_key: Path) -> None:
    """Make sure that `sign_manifest` can use a key, before the work that it is to sign.

    Raises:
        InvalidArgumentError: it cannot.
    """
    _private_key(private_key)


def _public_key(path: Path) -> "Ed25519PublicKey":
    serialization, errors = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    pem = _pem(path)
    try:
        key = serialization.load_pem_public_key(pem)
    except errors as error:
        raise InvalidArgumentError(
            f"{path} is no PEM file of a public key. Make it with `openssl pkey -in private.pem "
            "-pubout -out public.pem`."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidArgumentError(_other_type(path, key))
    return key


def _private_key(path: Path) -> "Ed25519PrivateKey":
    serialization, errors = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = _pem(path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:  # what the library raises where a passphrase would be needed
        raise InvalidArgumentError(
            f"{path} is encrypted. Give a key without a passphrase, e.g. the output of `openssl "
            f"pkey -in {path.name}`, kept where only the exporter can read it."
        ) from error
    except errors as error:
        raise InvalidArgumentError(
            f"{path} is no PEM file of a private key. Make one with `openssl genpkey -algorithm "
            "ed25519 -out private.pem`."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidArgumentError(_other_type(path, key))
    return key


def _pem(path: Path) -> bytes:
    try:
        return read_bounded(path, _MAX_KEY_BYTES)
    except ArtifactError as error:
        raise InvalidArgumentError(f"The key cannot be used: {error}") from error


def _other_type(path: Path, key: object) -> str:
    return (
        f"{path} holds a key of the type {type(key).__name__}; expected Ed25519, as made with "
        "`openssl genpkey -algorithm ed25519`."
    )


def _library() -> tuple[Any, tuple[type[Exception], ...]]:
    """The key reader, and what it raises on files that it cannot use."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InvalidArgumentError(
            "A key was given, but the package cryptography, which checks and makes signatures, is "
            "not installed. Install prn-guard[signing]."
        ) from error
    return serialization, (ValueError, UnsupportedAlgorithm)
