"""Ray, started in silence and without traces, or a cluster that is there.

Ray knows nothing here of images: it is told how many processes to run, and ends with the command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from limelens.serve.errors import LimelensError
from limelens.serve.wording import first_line

# Read when Ray is imported or started.
_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whatever still asks for Ray after its end would start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # On a busy machine Ray's own processes are late, and all the later the more there are.
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Workers have the priority that the command was given, not a lower one.
    "RAY_worker_niceness": "0",
}
_ATTEMPTS: Final = 5
_REMOVALS: Final = 50
_PAUSE_S: Final = 0.1
_KNOCK_S: Final = 10.0
_PREFIX: Final = "limelens-ray-"
_MARK: Final = "LIMELENS_RAY_FOLDER"
"""In the environment of all of a Ray's processes: they rename themselves and lose their parents."""
_SLOW: Final = "rfc3987_syntax"
"""Takes two seconds of each process that imports Ray, to check addresses that nobody checks.

Jupyter, among others, brings it along; where it cannot be imported, jsonschema does without.
"""
_TOKEN: Final = secrets.token_hex(32)
"""Of every Ray that this process starts; Ray reads it once."""
_NOT_STARTED: Final = ("start_monitor", "start_log_monitor", "start_api_server")
_SILENT: Final = logging.CRITICAL + 1
_STORE_BYTES: Final = 128 * 1024**2
"""Of Ray's store of objects: units are on disk, and only their numbers pass through it."""

_TEMPORARY_BYTES: Final = 64 * 1024**2
"""On a full disk Ray starts, and then waits forever for workers that cannot write a log."""


class RayError(LimelensError):
    """Ray could not be started or reached, or it ended in the middle."""


def import_ray() -> None:
    """Imports Ray and what is needed of it, as fast as that can be done.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    is_there = _SLOW in sys.modules
    if not is_there:
        sys.modules[_SLOW] = None  # type: ignore[assignment]
    try:
        import ray.data  # noqa: F401
    finally:
        if not is_there:
            del sys.modules[_SLOW]


@contextlib.contextmanager
def ray_session(address: str | None, num_cpus: int, noted: Path) -> Iterator[None]:
    """Ray on this machine, or the one at an address, until the context ends.

    Args:
        address: Of a cluster, `auto` for the one that this machine is part of; None: of this
            process alone.
        num_cpus: What a Ray of this machine may hand out; of a cluster it is known.
        noted: A file that remembers Ray's folder, for the next run if this one is killed.

    Raises:
        RayError: It cannot be started or reached.
        ModuleNotFoundError: Ray is not installed.
    """
    import_ray()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        _set_back(handlers),
        _own_folders(noted) as own,
        _silence(),
        _shut_down(dict.fromkeys(handlers, signal.SIG_IGN)),
    ):
        with _same_handlers():
            if address is None:
                _start(num_cpus, noted, own)
            else:
                _connect(address)
        _set_handlers(handlers)
        _show_no_progress()
        yield


@contextlib.contextmanager
def _set_back(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    try:
        yield
    finally:
        _set_handlers(handlers)


@contextlib.contextmanager
def _own_folders(noted: Path) -> Iterator[list[str]]:
    """The folders of this session's Rays, which are removed; so are those that are noted."""
    _remove_noted(noted)
    own: list[str] = []
    try:
        yield own
    finally:
        try:
            # The output, and with it what is noted, may be gone by then.
            _remove_folders(own)
        finally:
            _remove_noted(noted)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps Ray from writing anywhere."""
    for logger in ("ray", "ray.data", "ray.worker"):
        logging.getLogger(logger).setLevel(_SILENT)
    # Ray prints there what befalls its workers, whatever it is told about logs, and to the end.
    with (
        _silent_libraries(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextlib.contextmanager
def _shut_down(ignored: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Ends Ray; a second Ctrl-C meanwhile would leave processes and folders behind."""
    import ray

    try:
        yield
    finally:
        _set_handlers(ignored)
        try:
            ray.shutdown()
        finally:
            _set_handlers(ignored)  # Ray's end brings SIGTERM back


def _show_no_progress() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """Keeps Ray from handling SIGTERM: it would end the process whatever the caller wants."""
    utils = sys.modules.get("ray._private.utils")
    name = "set_sigterm_handler"
    if utils is None:
        yield
        return
    kept = getattr(utils, name, None)
    setattr(utils, name, lambda _handler: None)
    try:
        yield
    finally:
        if kept is None:
            delattr(utils, name)
        else:
            setattr(utils, name, kept)


def _set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Sends elsewhere what C++ writes to standard error; what Python writes there stays."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere, os.fdopen(kept, "w", buffering=1) as python:
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stderr(python):
                yield
        finally:
            os.dup2(kept, 2)


def _connect(address: str) -> None:
    import ray

    try:
        if address != "auto":
            _knock(address)
        ray.init(address, log_to_driver=False, logging_level=_SILENT)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RayError(
            f"no Ray at {address}: {first_line(error)}; expected HOST:PORT or auto on a machine of "
            "the cluster, and its token, if it has one"
        ) from error


def _knock(address: str) -> None:
    """Connects to an address, where Ray would try for minutes."""
    place = urlsplit(f"//{address}")
    if place.hostname is None or place.port is None:
        raise ValueError("not HOST:PORT")
    with socket.create_connection((place.hostname, place.port), _KNOCK_S):
        pass


def _start(num_cpus: int, noted: Path, own: list[str]) -> None:
    import ray

    home = tempfile.gettempdir()
    if (free := shutil.disk_usage(home).free) < _TEMPORARY_BYTES:
        raise RayError(
            f"{home}: {free // 1024**2} MiB are free, and Ray needs {_TEMPORARY_BYTES // 1024**2}; "
            "free some, or name another folder in TMPDIR"
        )
    for attempt in range(_ATTEMPTS):
        # Short, because the names of its sockets may have 107 bytes.
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        own.append(folder)
        with noted.open("a") as file:
            file.write(f"{folder}\n")
        try:
            with _environment(folder), _few_processes():
                ray.init(
                    "local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=_SILENT,
                    object_store_memory=_STORE_BYTES,
                    _temp_dir=folder,
                )
            return
        except Exception as error:  # Ray raises Exception itself if a process is late
            ray.shutdown()
            _end_processes_of(folder)
            if attempt + 1 == _ATTEMPTS:
                raise RayError(f"Ray could not be started: {first_line(error)}") from error


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What a Ray's processes see: whose they are, their token, a `_SLOW` that is not there."""
    slow = Path(folder, "left_out", f"{_SLOW}.py")
    slow.parent.mkdir()
    slow.write_text("raise ImportError(__name__)\n")
    path = [str(slow.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    before = dict(os.environ)
    os.environ.update({_MARK: folder, "PYTHONPATH": os.pathsep.join(path)})
    # Ray would write one to the home folder, and leave it there.
    os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
    try:
        yield
    finally:
        for name in (_MARK, "PYTHONPATH", "RAY_AUTH_TOKEN"):
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Has Ray start without an autoscaler, a forwarder of logs, and a dashboard.

    `ray start` has options for it, `ray.init` none; without a front, the dashboard only reports
    usage. Each is a process of Python, and Ray waits for the dashboard. A Ray that does not know
    these names starts all of them, which costs time and nothing else.
    """
    node = getattr(sys.modules.get("ray._private.node"), "Node", None)
    kept = {name: getattr(node, name) for name in _NOT_STARTED if hasattr(node, name)}
    try:
        for name in kept:
            setattr(node, name, lambda *_, **__: None)
        yield
    finally:
        for name, method in kept.items():
            setattr(node, name, method)


def _end_processes_of(folder: str) -> None:
    """Ends what is left of a Ray: helpers that would take a minute to see that it has ended."""
    mark = os.fsencode(f"{_MARK}={folder}")
    for found in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (found / "environ").read_bytes().split(b"\0"):
                os.kill(int(found.name), signal.SIGKILL)


def _remove_noted(noted: Path) -> None:
    """Removes the folders of every Ray that has ended."""
    try:
        lines = noted.read_text().splitlines()
    except FileNotFoundError:
        return
    home = Path(tempfile.gettempdir())
    _remove_folders(
        line for line in lines if Path(line).name.startswith(_PREFIX) and Path(line).parent == home
    )
    with contextlib.suppress(OSError):
        noted.unlink()


def _remove_folders(folders: Iterable[str]) -> None:
    for folder in folders:
        _end_processes_of(folder)
        for _ in range(_REMOVALS if Path(folder).exists() else 0):
            shutil.rmtree(folder, ignore_errors=True)
            # What has just been killed may still write there.
            time.sleep(_PAUSE_S)
            if not Path(folder).exists():
                break
