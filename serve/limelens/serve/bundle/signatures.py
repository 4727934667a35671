"""Signs a bundle with a private key, and checks the signature with the public one.

The signature is the file `model.sig` beside the bundle, in the format of OpenSSF's model signing,
whose tools can read it. Keys are files; no other machine is contacted. It knows bytes and keys, and
nothing of what a bundle holds.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from limelens.serve.bundle.folder import FILE_NAME, bundle_in
from limelens.serve.errors import BundleError, MissingExtraError, SigningError
from limelens.serve.files import write_whole
from limelens.serve.wording import first_line

SIGNATURE_NAME: Final = "model.sig"
_MAX_BYTES: Final = 1024 * 1024


def sign_bundle(path: Path, private_key: Path) -> Path:
    """Signs a bundle, or that in a version's folder; returns the file of the signature.

    The key is a PEM file without a password of an elliptic curve (P-256, P-384, P-521).

    Raises:
        SigningError: The bundle or the key cannot be used.
        MissingExtraError: `limelens[signing]` is not installed.
    """
    signing = _library("signing")
    path = bundle_in(path) if path.is_dir() else path
    if path.name != FILE_NAME or not path.is_file():
        raise SigningError(f"{path}: no bundle; expected {FILE_NAME}, or a folder that holds it")
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception as error:
        raise SigningError(_bad_key(private_key, "private", error)) from error
    signature = path.with_name(SIGNATURE_NAME)
    try:
        with tempfile.TemporaryDirectory(prefix="limelens-") as folder:
            made = Path(folder, SIGNATURE_NAME)
            signer.sign(path.resolve(), made)
            write_whole(signature, made.read_bytes())
    except OSError as error:
        raise SigningError(f"{signature}: cannot be written: {error.strerror}") from error
    return signature


def check_public_keys(public_keys: Sequence[Path]) -> None:
    """Checks the keys early: with an unusable key, every bundle would be refused."""
    for key in public_keys:
        _verifier(key)


def check_signature(data: bytes, path: Path, public_keys: Sequence[Path]) -> None:
    """Checks that a bundle's bytes were signed by the owner of one of the keys.

    Raises:
        BundleError: There is no signature, or none of the keys made it for these bytes.
        SigningError: A key cannot be used.
        MissingExtraError: `limelens[signing]` is not installed.
    """
    beside = path.with_name(SIGNATURE_NAME)
    try:
        with beside.open("rb") as file:
            signature = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{path}: not signed ({SIGNATURE_NAME}: {error.strerror}); signatures are required, "
            "`limelens sign` makes them"
        ) from error
    if len(signature) > _MAX_BYTES:
        raise BundleError(f"{beside}: {_MAX_BYTES:,} bytes or more; expected a signature")
    reasons = []
    with tempfile.TemporaryDirectory(prefix="limelens-") as folder:
        copy, copied = Path(folder, FILE_NAME), Path(folder, SIGNATURE_NAME)
        copy.write_bytes(data)
        copied.write_bytes(signature)
        for key in public_keys:
            verifier = _verifier(key)
            try:
                # The library prints warnings, but stdout is reserved.
                with contextlib.redirect_stdout(io.StringIO()):
                    verifier.verify(copy, copied)
            # A parser may raise anything for a file that is no signature.
            except Exception as error:
                reasons.append(f"{key.name}: {first_line(error)}")
            else:
                return
    raise BundleError(
        f"{path}: its signature does not fit: it was changed after it was signed, or signed by "
        f"another key ({'; '.join(reasons)})"
    )


def _verifier(key: Path) -> Any:
    try:
        return _library("verifying").Config().use_elliptic_key_verifier(public_key=key)
    except MissingExtraError:
        raise
    except Exception as error:
        raise SigningError(_bad_key(key, "public", error)) from error


def _library(part: str) -> Any:
    try:
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingExtraError(
            f"signatures need limelens[signing] ({error}); pip install 'limelens[signing]'"
        ) from error
    return getattr(model_signing, part)


def _bad_key(key: Path, kind: str, error: Exception) -> str:
    return (
        f"{key}: no {kind} key that can be used ({first_line(error)}); expected a PEM file without "
        "a password of an elliptic curve, such as `openssl genpkey -algorithm EC -pkeyopt "
        "ec_paramgen_curve:P-256` makes"
    )
