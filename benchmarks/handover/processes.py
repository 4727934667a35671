"""Spawned processes that end with their parent, and their results.

It does not know what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from limelens.serve.errors import LimelensError

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class _Failed(str):
    """A traceback."""


class Processes:
    """Processes that work for one measurement; all are killed when the context is left.

    Args:
        deadline: The limit of all waits, by `time.monotonic`.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.kill()
        for pipe, process in self._processes.items():
            process.join()
            pipe.close()

    def start(self, work: Callable[..., None], *arguments: Any) -> Connection:
        """Starts one.

        Args:
            work: A function of a module; is called with its end of a pipe and the arguments.
            arguments: Can be pickled.

        Returns:
            The other end of the pipe.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, work, arguments), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def gather(self, pipes: Sequence[Connection]) -> list[Any]:
        """Waits for one message of each.

        Args:
            pipes: Of the processes that are to send one.

        Raises:
            LimelensError: A process failed or ended, or there was no time left.
        """
        found: dict[Connection, Any] = {}
        while any(pipe not in found for pipe in pipes):
            waited_for = [pipe for pipe in self._processes if pipe not in found]
            ready = wait(waited_for, max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise LimelensError("there was no time left; see --limit")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                found[pipe] = self._received(pipe)
        return [found[pipe] for pipe in pipes]

    def _received(self, pipe: Connection) -> Any:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionError):
            process = self._processes[pipe]
            process.join(5)
            raise LimelensError(f"a process ended (exit {process.exitcode})") from None
        if isinstance(message, _Failed):
            raise LimelensError(f"a process failed: {message}")
        return message

    def cpu_s(self, pipes: Iterable[Connection]) -> float:
        """CPU that some of them have used so far, all threads, in seconds. Linux only."""
        return sum(_cpu_s(self._processes[pipe].pid) for pipe in pipes)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _work(pipe: Connection, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(pipe, *arguments)
    except EOFError:  # the parent wants nothing more
        return
    except BaseException:
        pipe.send(_Failed(traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
