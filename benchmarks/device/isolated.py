"""Runs work in its own process, on chosen cores, so that it cannot affect other work."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from limelens.serve.errors import LimelensError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def isolated(
    timeout_s: float, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs
) -> _T:
    """Calls a function in a new process, which is killed when it takes too long.

    Args:
        timeout_s: For how long it may work.
        work: A function of a module; its arguments and result can be pickled.
        arguments: Its arguments.
        named: Its arguments by name.

    Raises:
        LimelensError: The work raised, its process died, or it took too long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, work, arguments, named), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise LimelensError(f"{work.__name__} was not done within {timeout_s:.0f} s")
        is_result, found = ours.recv()
    except EOFError:
        process.join()
        raise LimelensError(
            f"the process of {work.__name__} died (exit {process.exitcode})"
        ) from None
    finally:
        ours.close()
        process.kill()
        process.join()
    if not is_result:
        raise LimelensError(found)
    result: _T = found
    return result


def cores() -> tuple[int, ...]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _call(
    connection: Connection,
    work: Callable[..., object],
    arguments: Sequence[object],
    named: dict[str, object],
) -> None:
    try:
        connection.send((True, work(*arguments, **named)))
    except BaseException:
        connection.send((False, traceback.format_exc()))
