"""Judges a bundle's file in a process of its own, so that nobody who is answered notices.

Parsing and checking a model holds Python's lock for as long as it takes (a tenth of a second for
45 MB), and a file that was made for it may crash or exhaust a parser. Both happen elsewhere: here
a process is started that steps back behind all others, checks the file and prints a verdict with
the digest of the bytes that it is about. It knows files, and nothing of what is served.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
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
from limelens.serve.bundle.session import load_bundle
from limelens.serve.bundle.signatures import check_signature
from limelens.serve.bundle.warming import warm_up
from limelens.serve.errors import BundleError, LimelensError, UnavailableError

_NICENESS: Final = 10  # at 19 a busy machine would never come to it
_PATIENCE_S: Final = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """A file that may be served.

    Args:
        digest: SHA-256 of the bytes that were checked, hexadecimal.
        metadata: What they say of themselves.
    """

    digest: str
    metadata: Metadata


class Validator:
    """Starts a process for each file that is to be judged, one at a time.

    Args:
        public_keys: Who may have signed; empty is anybody, and unsigned too.
        run: Whether the model is also run there, on the CPU. For bundles that will run on a GPU
            it is not: they are run where they will be.
    """

    def __init__(self, public_keys: Sequence[Path] = (), *, run: bool = True) -> None:
        self._public_keys = tuple(public_keys)
        self._run = run
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def __call__(self, path: Path) -> ValidationResult:
        """Judges one file.

        Args:
            path: The bundle.

        Raises:
            BundleError: It is refused; the message says why.
            UnavailableError: The judge was stopped first.
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
                process_group=0,  # Ctrl-C is the server's, and says nothing of the file
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        with process:
            try:
                said, errors = process.communicate(timeout=_PATIENCE_S)
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
        _log.debug("judged %s in %.2f s", path, time.monotonic() - began)
        return _verdict(path, process.returncode, said, errors)

    def stop(self) -> None:
        """Ends the process that is judging; no more are started."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def kill(self) -> None:
        """Ends the process that is judging; for signal handlers, which can wait for no lock."""
        process = self._process
        if process is not None:
            process.kill()

    def _command(self, path: Path) -> list[str]:
        # -P: modules that happen to lie in the working folder are not run.
        command = [sys.executable, "-P", "-m", __name__, str(path.absolute())]
        command += ["--run"] if self._run else []
        for key in self._public_keys:
            command += ["--key", str(key)]
        return command


def read_judged(path: Path, judged: ValidationResult) -> tuple[bytes, Metadata]:
    """Reads the bytes that were judged.

    Raises:
        BundleError: The file holds others by now.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a bundle (model.onnx)") from error
    if hashlib.sha256(data).hexdigest() != judged.digest:
        raise BundleError(f"{path}: was changed while it was checked")
    return data, judged.metadata


def read_checked(path: Path, public_keys: Sequence[Path] = ()) -> tuple[bytes, Metadata]:
    """Reads a bundle's bytes and checks them, in this process.

    Args:
        path: The bundle.
        public_keys: As for `Validator`.

    Raises:
        BundleError: It is refused; the message says why.
    """
    data, metadata = read_bundle_file(path)
    if public_keys:
        check_signature(data, path, public_keys)
    return data, metadata


def _verdict(path: Path, returncode: int, said: str, errors: str) -> ValidationResult:
    if returncode < 0:
        raise BundleError(
            f"{path}: the process that checked it was ended by signal {-returncode}: the file may "
            "be made to crash its reader, or memory ran out"
        )
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        last = errors.strip().splitlines()[-1:] or [f"exit code {returncode}"]
        raise BundleError(f"{path}: could not be checked: {last[0]}") from None
    if "refused" in found:
        raise BundleError(found["refused"])
    return ValidationResult(found["digest"], Metadata.from_props(found["props"]))


def _stopped() -> UnavailableError:
    return UnavailableError("the server is going down")


def _judge_here(path: Path, public_keys: Sequence[Path], *, run: bool) -> dict[str, Any]:
    """What the process prints."""
    try:
        data, metadata = read_checked(path, public_keys)
        if run:
            warm_up(load_bundle(path, "cpu", num_threads=1, read=lambda _: (data, metadata)))
    except LimelensError as error:
        return {"refused": str(error)}
    return {"digest": hashlib.sha256(data).hexdigest(), "props": metadata.to_props()}


def _step_back() -> None:
    """Behind all others for the processor, and before all others when memory runs out."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name if __spec__ else __name__}")
    parser.add_argument("path", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[])
    parser.add_argument("--run", action="store_true")
    arguments = parser.parse_args()
    _step_back()
    print(json.dumps(_judge_here(arguments.path, arguments.key, run=arguments.run)))


if __name__ == "__main__":
    _main()
