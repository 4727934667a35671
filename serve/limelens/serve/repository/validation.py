"""Validates a bundle's file in a process of its own, so that no request is delayed.

Parsing and checking a model holds Python's lock throughout (a tenth of a second for 45 MB), and a
malicious file may crash or exhaust a parser. So a process of lower priority checks the file and
prints the result, with the digest of the checked bytes. The same process judges a version against
the one that it would replace. It knows nothing of what is served.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from limelens.serve.bundle import Metadata
from limelens.serve.errors import BundleError, LimelensError, UnavailableError
from limelens.serve.priority import lower_process_priority
from limelens.serve.repository.judging import Judgement, Rival, judge_against, loaded, read_checked

_PATIENCE_S: Final = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """What was found out about a valid bundle.

    Args:
        digest: SHA-256 of its bytes, hexadecimal.
        metadata: Its own.
        judgement: How it compares with its rival; None without a rival.
    """

    digest: str
    metadata: Metadata
    judgement: Judgement | None = None


Validate = Callable[[Path], ValidationResult]
"""Validates a file; raises what a `Validator` raises."""


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
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __call__(
        self, path: Path, rival: Rival | None = None, images: Path | None = None
    ) -> ValidationResult:
        """Validates one file.

        Args:
            path: The file.
            rival: Judges the file against this version.
            images: The folder of images to judge by; None takes golden images.

        Raises:
            BundleError: It is refused; the message says why.
            UnavailableError: The validator was stopped first.
        """
        command = self._command(path)
        if rival is not None:
            command += ["--rival", "" if rival.data else str(rival.path.absolute())]
            command += ["--rival-words", rival.words]
            command += [] if images is None else ["--images", str(images.absolute())]
        began = time.monotonic()
        with self._lock:
            if self._stopped:
                raise _stopped()
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C ends the server, and is no fault of the file
            )
        with process:
            try:
                given = b"" if rival is None else rival.data
                output, errors = process.communicate(given, timeout=_PATIENCE_S)
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
        return _result(path, process.returncode, output.decode(), errors.decode(errors="replace"))

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


def validate(
    path: Path,
    public_keys: Sequence[Path] = (),
    *,
    run: bool = True,
    rival: Rival | None = None,
    images: Path | None = None,
) -> ValidationResult:
    """Validates a file in this process; arguments and errors are those of a `Validator`."""
    data, metadata = read_checked(path, public_keys)
    if run:
        loaded(path, data, metadata).warm_up()
    judgement = None
    if rival is not None:
        for image in metadata.golden_images:
            image.fitted(metadata.resize)
        new = functools.partial(loaded, path, data, metadata)
        judgement = judge_against(rival, new, metadata.resize, public_keys, images)
    return ValidationResult(hashlib.sha256(data).hexdigest(), metadata, judgement)


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
    judgement = found["judgement"] and Judgement(**found["judgement"])
    return ValidationResult(found["digest"], Metadata.from_props(found["props"]), judgement)


def _stopped() -> UnavailableError:
    return UnavailableError("the server is going down")


def _main() -> None:
    """Validates a file in this process and prints the result as JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name if __spec__ else __name__}")
    parser.add_argument("path", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[])
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--rival")
    parser.add_argument("--rival-words", default="")
    parser.add_argument("--images", type=Path)
    arguments = parser.parse_args()
    lower_process_priority()
    rival = None
    if arguments.rival is not None:
        given = b"" if arguments.rival else sys.stdin.buffer.read()
        rival = Rival(0, arguments.rival_words, Path(arguments.rival), given)
    try:
        found = validate(
            arguments.path,
            arguments.key,
            run=arguments.run,
            rival=rival,
            images=arguments.images,
        )
        result = {
            "digest": found.digest,
            "props": found.metadata.to_props(),
            "judgement": found.judgement and asdict(found.judgement),
        }
    except LimelensError as error:
        result = {"refused": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
