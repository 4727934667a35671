"""A real server in a separate process, and callers that call it without pause.

They record when each call began, how long it took, which version responded, and any error. Shared
by the measurements of swaps and drains, and by their tests.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from limelens.serve import Client
from limelens.serve.client.results import FrameStatus
from limelens.serve.errors import LimelensError, OverloadedError

_TIMEOUT_S = 120.0


class ServerProcess:
    """`limelens serve` on loopback, killed when the context ends.

    Args:
        models: The folder of models.
        options: More options of the command.
    """

    def __init__(self, models: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(models)),
                *("--listen", "127.0.0.1:0", "--device", "cpu", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line:
            raise LimelensError(self.process.communicate()[1])
        self.address = self.line.split(" on ")[1].split()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def send_signal(self, number: signal.Signals) -> float:
        """Sends a signal; returns when, by `time.monotonic`."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    def end(self) -> tuple[int, str]:
        """Waits for its exit; returns the exit code and its stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    @property
    def workers(self) -> tuple[int, ...]:
        """Ids of its worker processes (`--processes`); empty without workers."""
        return self._children("limelens.serve.processes.worker")

    @property
    def owner(self) -> int:
        """Id of the process that owns the device (`--device-process`); 0 without.

        A younger one may be there, that will replace it.
        """
        return next(iter(self.owners), 0)

    @property
    def owners(self) -> tuple[int, ...]:
        """Ids of that process and of the one that will replace it, the elder first."""
        return self._children("limelens.serve.processes.device_owner")

    def _children(self, module: str = "") -> tuple[int, ...]:
        """Ids of children in the order in which they were started."""
        pid, found = self.process.pid, []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                if not module or module in arguments:
                    found.append(int(child))
        return tuple(found)

    def pss_bytes(self) -> int:
        """Its memory and its children's, shared pages divided among those who share them."""
        total = 0
        for pid in (self.process.pid, *self._children()):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = [line for line in rollup.splitlines() if line.startswith("Pss:")]
            if not found:
                raise LimelensError("the kernel reports no PSS")
            total += int(found[0].split()[1]) * 1024
        return total


@dataclass(frozen=True)
class Call:
    """One call, or one frame of a camera.

    Args:
        kind: `classify`, `explain` or `frame`.
        began: By `time.monotonic`.
        ended: The same.
        version: The version that responded; 0 if none did.
        error: The error; empty if there was none.
    """

    kind: str
    began: float
    ended: float
    version: int
    error: str


class Traffic:
    """Callers in threads, from entering until leaving or the first error of each.

    Args:
        address: Of the server.
        image: The image to send, `(H, W, 3)` uint8.
        callers: How many classify.
        images_each: Images in one call.
        explaining: Whether one more explains.
        camera: Whether one more streams frames.
        num_samples: Of each explanation.
        until_error: Whether a caller leaves at its first error, as when a server goes down.
    """

    def __init__(
        self,
        address: str,
        image: NDArray[np.uint8],
        *,
        callers: int = 3,
        images_each: int = 1,
        explaining: bool = True,
        camera: bool = True,
        num_samples: int = 200,
        until_error: bool = False,
    ) -> None:
        self._address = address
        self._image = image
        self._images_each = images_each
        self._num_samples = num_samples
        self._until_error = until_error
        self._over = threading.Event()
        self._calls: list[Call] = []
        work: list[Callable[[], None]] = [self._classify] * callers
        work += [self._explain] if explaining else []
        work += [self._stream] if camera else []
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]

    @property
    def calls(self) -> list[Call]:
        """All calls that ended so far, in the order of their ends."""
        return list(self._calls)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()

    def join(self) -> None:
        """Waits until every caller left."""
        for thread in self._threads:
            thread.join(_TIMEOUT_S)

    def wait_for(self, version: int, kinds: set[str], timeout_s: float = 120.0) -> float:
        """Waits until a version has responded to calls of all kinds; returns the seconds it took.

        Raises:
            LimelensError: It did not happen in time.
        """
        began = time.monotonic()
        at = len(self._calls)
        missing = set(kinds)
        while missing:
            if time.monotonic() - began > timeout_s:
                raise LimelensError(f"version {version} did not answer {sorted(missing)}")
            while at < len(self._calls):
                if self._calls[at].version == version:
                    missing.discard(self._calls[at].kind)
                at += 1
            time.sleep(0.01)
        return time.monotonic() - began

    def _classify(self) -> None:
        with Client(self._address, max_attempts=1, timeout_s=_TIMEOUT_S) as client:
            images = [self._image] * self._images_each
            self._repeat("classify", lambda: client.classify(images).model.version)

    def _explain(self) -> None:
        with Client(self._address, max_attempts=1, timeout_s=_TIMEOUT_S) as client:
            self._repeat(
                "explain",
                lambda: (
                    client.explain(self._image, num_samples=self._num_samples, seed=0).model.version
                ),
            )

    def _repeat(self, kind: str, call: Callable[[], int]) -> None:
        while not self._over.is_set():
            one = Call(kind, time.monotonic(), 0.0, 0, "")
            try:
                one = dataclasses.replace(one, version=call())
            except LimelensError as error:
                one = dataclasses.replace(one, error=f"{type(error).__name__}: {error}")
                if isinstance(error, OverloadedError):
                    time.sleep(0.05)
            self._calls.append(dataclasses.replace(one, ended=time.monotonic()))
            if one.error and self._until_error:
                return

    def _stream(self) -> None:
        sent: list[float] = []
        answered = threading.Semaphore(1)

        def frames() -> Iterator[NDArray[np.uint8]]:
            while not self._over.is_set():
                if answered.acquire(timeout=0.1):
                    sent.append(time.monotonic())
                    yield self._image
                    time.sleep(0.05)

        with Client(self._address, max_attempts=1, timeout_s=_TIMEOUT_S) as client:
            try:
                for answer in client.stream(frames(), camera_id="door"):
                    is_well = answer.status is FrameStatus.CLASSIFIED
                    self._calls.append(
                        Call(
                            "frame",
                            sent[answer.frame_id],
                            time.monotonic(),
                            answer.model.version if is_well else 0,
                            "" if is_well else f"{answer.status}: {answer.reason}",
                        )
                    )
                    answered.release()
            except LimelensError as error:
                now = time.monotonic()
                text = f"{type(error).__name__}: {error}"
                self._calls.append(Call("stream", sent[0] if sent else now, now, 0, text))


def percentile_ms(calls: list[Call], kind: str, share: float) -> float:
    """A percentile of the latency of successful calls of a kind, in milliseconds."""
    spent = [1000 * (one.ended - one.began) for one in calls if one.kind == kind and not one.error]
    return float(np.percentile(spent, 100 * share)) if spent else float("nan")
