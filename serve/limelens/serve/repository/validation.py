"""Validates a bundle's file in a process of its own, so that no request is delayed.

Parsing and checking a model holds Python's lock throughout (a tenth of a second for 45 MB), and a
malicious file may crash or exhaust a parser. So a process of lower priority checks the file and
prints the result, with the digest of the checked bytes. It knows nothing of what is served.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limelens.serve.bundle import Metadata
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.loading import load_bundle
from limelens.serve.bundle.signatures import check_signature
from limelens.serve.errors import BundleError, LimelensError, UnavailableError
from limelens.serve.priority import lower_process_priority

_PATIENCE_S: Final = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """The SHA-256 of a valid bundle's bytes, hexadecimal, and their metadata."""

    digest: str
    metadata: Metadata


class Validator:
    """Starts a process for each file, one at a time.

    Args:
        public_keys: A bundle must be signed with one of these; empty accepts unsigned bundles.
        run: Whether the process also runs the model, on the CPU. Bundles for a GPU are run on
            their GPU, when they are loaded.
    """

    def __init__(self, public_keys: Sequence[Path] = (), *, run: bool = True) -> None:
        self._public_keys = tuple(public_keys)
        self._run = run
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def __call__(self, path: Path) -> ValidationResult:
        """Validates one file.

        Raises:
            BundleError: It is refused; the message says why.
            UnavailableError: The validator was stopped first.
        """
        began = time.monotonic()
        with self._lock:
            if self._stopped:
                raise _stopped()
            self._process = process = subprocess.Popen(
                self._command(path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C ends the server, and is no fault of the file
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        with process:
            try:
                output, errors = process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise BundleError(
                    f"{path}: could not be checked within {_PATIENCE_S:g} seconds"
                ) from None
            finally:
                with self._lock:
                    self._process = None
        if self._stopped:
            raise _stopped()
        _log.debug("validated %s in %.2f s", path, time.monotonic() - began)
        return _result(path, process.returncode, output, errors)

    @property
    def pid(self) -> int | None:
        """The id of the process that validates now; None if none does."""
        process = self._process
        return None if process is None else process.pid

    def stop(self) -> None:
        """Ends the process; no more are started."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def kill(self) -> None:
        """Ends the process; for signal handlers, which cannot wait for a lock."""
        process = self._process
        if process is not None:
            process.kill()

    def _command(self, path: Path) -> list[str]:
        # -P: does not import modules from the working folder.
        command = [sys.executable, "-P", "-m", __name__, str(path.absolute())]
        command += ["--run"] if self._run else []
        for key in self._public_keys:
            command += ["--key", str(key)]
        return command


def read_validated(path: Path, result: ValidationResult) -> tuple[bytes, Metadata]:
    """Reads the bytes that were validated, and refuses a file that has changed since."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a bundle (model.onnx)") from error
    if hashlib.sha256(data).hexdigest() != result.digest:
        raise BundleError(f"{path}: changed while it was checked")
    return data, result.metadata


def read_checked(path: Path, public_keys: Sequence[Path] = ()) -> tuple[bytes, Metadata]:
    """Reads a bundle's bytes and checks them, in this process."""
    data, metadata = read_bundle_file(path)
    if public_keys:
        check_signature(data, path, public_keys)
    return data, metadata


def _result(path: Path, returncode: int, output: str, errors: str) -> ValidationResult:
    if returncode < 0:
        raise BundleError(
            f"{path}: the process that checked it was ended by signal {-returncode}: the file may "
            "be malicious, or memory ran out"
        )
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        last = errors.strip().splitlines()[-1:] or [f"exit code {returncode}"]
        raise BundleError(f"{path}: could not be checked: {last[0]}") from None
    if "refused" in found:
        raise BundleError(found["refused"])
    return ValidationResult(found["digest"], Metadata.from_props(found["props"]))


def _stopped() -> UnavailableError:
    return UnavailableError("the server is going down")


def _main() -> None:
    """Validates a file in this process and prints the result as JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name if __spec__ else __name__}")
    parser.add_argument("path", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[])
    parser.add_argument("--run", action="store_true")
    arguments = parser.parse_args()
    lower_process_priority()
    try:
        data, metadata = read_checked(arguments.path, arguments.key)
        if arguments.run:
            read = lambda _: (data, metadata)  # noqa: E731
            load_bundle(arguments.path, "cpu", num_threads=1, read=read).warm_up()
        result = {"digest": hashlib.sha256(data).hexdigest(), "props": metadata.to_props()}
    except LimelensError as error:
        result = {"refused": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
