"""Ray, started in silence and without traces, or a cluster that is there.

Ray knows nothing here of images: it is told how many processes to run, and ends with the command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from limelens.serve.errors import LimelensError
from limelens.serve.wording import first_line

# Read when Ray is imported or started.
_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
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
_STORE_BYTES: Final = 128 * 1024**2
"""Of Ray's store of objects: units are on disk, and only their numbers pass through it."""


class RayError(LimelensError):
    """Ray could not be started or reached, or it ended in the middle."""


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
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.data import DataContext

    _remove_folder_of(noted)
    quiet = logging.CRITICAL + 1
    for logger in ("ray", "ray.data", "ray.worker"):
        logging.getLogger(logger).setLevel(quiet)
    if address is None:
        _start(num_cpus, noted)
    else:
        try:
            ray.init(address, log_to_driver=False, logging_level=quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RayError(
                f"no Ray at {address}: {first_line(error)}; expected HOST:PORT, ray://HOST:PORT or "
                "auto on a machine of the cluster"
            ) from error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        # Ray prints there what befalls its workers, whatever it is told about logs.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        ray.shutdown()
        _remove_folder_of(noted)


def _start(num_cpus: int, noted: Path) -> None:
    import ray

    for attempt in range(_ATTEMPTS):
        # Short, because the names of its sockets may have 107 bytes.
        folder = tempfile.mkdtemp(prefix="limelens-ray-")
        noted.write_text(folder)
        try:
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL + 1,
                object_store_memory=_STORE_BYTES,
                _temp_dir=folder,
            )
            return
        except Exception as error:  # Ray raises Exception itself if a process is late
            ray.shutdown()
            _end_processes_of(folder)
            _remove_folder_of(noted)
            if attempt + 1 == _ATTEMPTS:
                raise RayError(f"Ray could not be started: {first_line(error)}") from error


def _end_processes_of(folder: str) -> None:
    """Ends what Ray has left of a start that failed: children of this process, by its folder."""
    for found in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((found / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and os.fsencode(folder) in (found / "cmdline").read_bytes():
                os.kill(int(found.name), signal.SIGKILL)


def _remove_folder_of(noted: Path) -> None:
    """Removes the folder of a Ray that has ended."""
    with contextlib.suppress(OSError):
        folder = Path(noted.read_text())
        if folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith("limelens-ray-"):
            shutil.rmtree(folder, ignore_errors=True)
        noted.unlink()
