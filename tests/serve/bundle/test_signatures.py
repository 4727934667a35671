"""Bundles that are signed, and servers that ask for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.conftest import BundleMaker

from limelens.serve.bundle.signatures import check_public_keys, check_signature, sign_bundle
from limelens.serve.errors import BundleError, MissingExtraError, SigningError
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.validation import Validator


def make_keys(folder: Path, name: str, *, other_kind: bool = False) -> tuple[Path, Path]:
    """A private and a public key as PEM files."""
    private = (
        ed25519.Ed25519PrivateKey.generate()
        if other_kind
        else ec.generate_private_key(ec.SECP256R1())
    )
    files = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    files[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[1].write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return files


def check(path: Path, *keys: Path) -> None:
    check_signature(path.read_bytes(), path, keys)


def test_a_signature_is_about_the_file_and_the_key(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    _, others = make_keys(tmp_path, "others")
    path = bundles.save(tmp_path, bundles.metadata())
    with pytest.raises(BundleError, match=r"not signed .*`limelens sign` makes them"):
        check(path, public)
    signature = sign_bundle(path.parent, private)
    assert signature == path.with_name("model.sig")
    check(path, public)
    check(path, others, public)  # one that fits is enough
    with pytest.raises(BundleError, match=r"signed by another key \(others\.pub\.pem: "):
        check(path, others)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    with pytest.raises(BundleError, match="changed after it was signed"):
        check(path, public)
    path.write_bytes(whole)
    check(path, public)


def test_the_signature_moves_along_with_its_bundle(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    path = bundles.save(tmp_path, bundles.metadata())
    sign_bundle(path, private)
    (path.parent / "README.md").write_text("a card, which is not signed")
    moved = shutil.copytree(path.parent, tmp_path / "elsewhere" / "7")
    check(moved / "model.onnx", public)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\xff", '{"verificationMaterial": {}}'])
def test_malformed_signatures_are_refused(tmp_path: Path, bundles: BundleMaker, text: str) -> None:
    _, public = make_keys(tmp_path, "ours")
    path = bundles.save(tmp_path, bundles.metadata())
    path.with_name("model.sig").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match="its signature does not fit"):
        check(path, public)


def test_malformed_keys_are_refused_with_the_expected_kind(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    path = bundles.save(tmp_path, bundles.metadata())
    words = tmp_path / "words.pem"
    words.write_text("no key")
    edwards = make_keys(tmp_path, "edwards", other_kind=True)
    for key in (words, tmp_path / "nothing.pem", edwards[0]):
        with pytest.raises(
            SigningError, match=r"no private key that can be used .*openssl genpkey"
        ):
            sign_bundle(path, key)
    for key in (words, tmp_path / "nothing.pem", edwards[1]):
        with pytest.raises(SigningError, match="no public key that can be used"):
            check_public_keys([key])
    with pytest.raises(SigningError, match="no bundle"):
        sign_bundle(tmp_path, make_keys(tmp_path, "ours")[0])


def test_the_tools_of_model_signing_read_it(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    path = bundles.save(tmp_path, bundles.metadata())
    signature = sign_bundle(path, private)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(path)]
    command += ["--signature", str(signature), "--public_key", str(public)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.ci
def test_a_repository_serves_only_signed_bundles(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    models = tmp_path / "models"
    path = bundles.save(models, bundles.metadata(), 1)
    with pytest.raises(BundleError, match=r"every model in it was refused: .*not signed"):
        Repository(models, "cpu", public_keys=[public])
    sign_bundle(path, private)
    repository = Repository(models, "cpu", public_keys=[public])
    second = bundles.save(models, bundles.metadata(), 2)
    validator = repository.validator()
    assert repository.refresh(validator=validator)
    assert repository.get().version == 1
    assert "not signed" in repository.rejected[0].reason
    sign_bundle(second, private)
    assert repository.refresh(validator=validator)  # it has been signed since
    assert repository.get().version == 2
    with pytest.raises(SigningError, match="no public key"):
        Repository(models, "cpu", public_keys=[private])


def test_a_validator_checks_the_signature_too(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    path = bundles.save(tmp_path, bundles.metadata())
    with pytest.raises(BundleError, match="not signed"):
        Validator([public])(path)
    sign_bundle(path, private)
    assert Validator([public])(path).metadata.name == "colours"


@pytest.mark.ci
def test_the_command_signs_and_a_server_requires_it(tmp_path: Path, bundles: BundleMaker) -> None:
    private, public = make_keys(tmp_path, "ours")
    path = bundles.save(tmp_path / "models", bundles.metadata())
    command = [sys.executable, "-m", "limelens.cli"]
    serve = [*command, "serve", "--models", str(tmp_path / "models"), "--listen", "127.0.0.1:0"]
    serve += ["--device", "cpu", "--require-signature", str(public)]

    def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)

    refused = run(serve)
    assert refused.returncode == 1
    assert "signatures are required" in refused.stderr
    signed = run([*command, "sign", str(path), "--key", str(private), "--json"])
    assert signed.returncode == 0, signed.stderr
    assert json.loads(signed.stdout)["signature"] == str(path.with_name("model.sig"))
    process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("limelens: serving colours 1 on ")
    process.terminate()
    assert process.communicate(timeout=60) == ("", "")


def test_a_missing_extra_is_named(
    tmp_path: Path, bundles: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundles.save(tmp_path, bundles.metadata())
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'limelens\[signing\]'"):
        sign_bundle(path, tmp_path / "key.pem")
    with pytest.raises(MissingExtraError):
        Repository(tmp_path, "cpu", public_keys=[tmp_path / "key.pem"])
