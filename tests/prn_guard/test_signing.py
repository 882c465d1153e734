"""Signatures, with keys made as openssl makes them."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as elliptic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from prn_guard import Guard, signing
from prn_guard.errors import ArtifactError, InvalidArgumentError, PrnGuardError
from prn_guard.session import open_session
from tests.prn_guard.tiny import write_keys


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, Ed25519PrivateKey.generate())


@pytest.fixture
def signed(folder, keys):
    signing.sign_manifest(folder, keys[0])
    return folder


def test_signed_guard_is_served(signed, keys, pictures):
    assert (signed / "manifest.sig").stat().st_size == 64
    guard = Guard(signed, public_key=keys[1])
    assert len(guard.classify(pictures)) == len(pictures)
    Guard(signed)  # whoever has no key may ignore the signature


def test_signature_is_that_of_rfc_8032(tmp_path):
    """Test 2 of section 7.1: one byte, 0x72."""
    secret = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"  # noqa: S105
    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    private, public = write_keys(tmp_path, key)
    (tmp_path / "manifest.json").write_bytes(b"\x72")
    signing.sign_manifest(tmp_path, private)
    assert (tmp_path / "manifest.sig").read_bytes().hex() == expected
    signing.verify(b"\x72", bytes.fromhex(expected), public)
    with pytest.raises(ArtifactError, match="no signature of"):
        signing.verify(b"\x73", bytes.fromhex(expected), public)


def test_missing_signature_is_refused(folder, keys):
    with pytest.raises(ArtifactError, match=r"manifest\.sig is missing.*private key"):
        open_session(folder, public_key=keys[1])


@pytest.mark.parametrize(
    "change", [lambda _: b"", lambda s: s[:-1], lambda s: s + b"\0", lambda _: bytes(64)]
)
def test_wrong_signature_is_refused(signed, keys, change):
    path = signed / "manifest.sig"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactError, match="fetch it again"):
        open_session(signed, public_key=keys[1])


def test_signature_by_another_key_is_refused(signed, tmp_path):
    (tmp_path / "other").mkdir()
    _, other = write_keys(tmp_path / "other", Ed25519PrivateKey.generate())
    with pytest.raises(ArtifactError, match="signed by somebody else"):
        open_session(signed, public_key=other)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}", b""])
def test_the_signature_is_refused_before_anything_is_parsed(signed, keys, content):
    (signed / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="no signature of"):
        open_session(signed, public_key=keys[1])


def test_even_spacing_is_signed(signed, keys):
    path = signed / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    open_session(signed)
    with pytest.raises(ArtifactError, match="no signature of"):
        open_session(signed, public_key=keys[1])


def test_changed_graph_is_refused_under_a_valid_signature(signed, keys):
    path = signed / "guarded.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="has changed"):
        open_session(signed, public_key=keys[1])


def test_keys_of_other_types_are_refused(signed, tmp_path):
    private, public = write_keys(tmp_path, elliptic(SECP256R1()))
    with pytest.raises(InvalidArgumentError, match="expected Ed25519"):
        open_session(signed, public_key=public)
    with pytest.raises(InvalidArgumentError, match="expected Ed25519"):
        signing.sign_manifest(signed, private)


def test_encrypted_key_is_refused(folder, tmp_path):
    locked = serialization.BestAvailableEncryption(b"secret")
    private, _ = write_keys(tmp_path, Ed25519PrivateKey.generate(), locked)
    with pytest.raises(InvalidArgumentError, match="is encrypted"):
        signing.sign_manifest(folder, private)


def test_private_and_public_are_told_apart(signed, keys):
    private, public = keys
    with pytest.raises(InvalidArgumentError, match="no PEM file of a public key"):
        open_session(signed, public_key=private)
    with pytest.raises(InvalidArgumentError, match="no PEM file of a private key"):
        signing.sign_manifest(signed, public)


def test_missing_or_foreign_key_files_are_refused(signed, tmp_path):
    with pytest.raises(InvalidArgumentError, match="is missing"):
        open_session(signed, public_key=tmp_path / "none.pem")
    with pytest.raises(InvalidArgumentError, match="no plain file"):
        open_session(signed, public_key=tmp_path)
    (tmp_path / "text.pem").write_text("no key")
    with pytest.raises(InvalidArgumentError, match="no PEM file"):
        open_session(signed, public_key=tmp_path / "text.pem")


def test_without_the_library_the_extra_is_named(signed, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(PrnGuardError, match=r"Install prn-guard\[signing\]"):
        open_session(signed, public_key=keys[1])
    open_session(signed)


def test_the_library_is_imported_only_for_a_key(signed):
    code = (
        "import sys, prn_guard; prn_guard.Guard(sys.argv[1]); "
        "sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(signed)], check=True)  # noqa: S603
