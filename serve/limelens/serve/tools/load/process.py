"""The process of a server on this machine: starting one, and its CPU time and memory."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limelens.serve.addresses import is_loopback
from limelens.serve.client.connection import address_options
from limelens.serve.errors import LimelensError, MissingExtraError, UnavailableError

_START_S: Final = 120.0
_STOP_S: Final = 30.0


@dataclass(frozen=True)
class Usage:
    """CPU time of all cores together within some seconds, and memory at their end.

    Memory is in MB, with shared pages divided among their users (PSS).
    """

    cpu_s: float
    seconds: float
    pss_mb: float


@dataclass(frozen=True)
class ServerProcess:
    """A server that was started here.

    Args:
        address: `HOST:PORT`.
        start_s: From the start until it reported SERVING.
        process: The process.
        ready: The line that it printed once it listened.
    """

    address: str
    start_s: float
    process: subprocess.Popen[str]
    ready: str

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Watch:
    """Measures one process and its descendants, from now or `begin` until `end` or `usage`.

    Raises:
        LimelensError: There is no such process.
        MissingExtraError: psutil is not installed.
    """

    def __init__(self, pid: int) -> None:
        psutil = load_psutil()
        self._error = psutil.Error
        self._usage: Usage | None = None
        try:
            self._process = psutil.Process(pid)
            self.begin()
        except psutil.Error as error:
            raise LimelensError(f"process {pid} cannot be measured: {error}") from error

    def begin(self) -> None:
        """Measures from now on."""
        self._cpu_s, self._began = self._cpu(), time.monotonic()

    def end(self) -> None:
        """Measures until now."""
        cpu_s = self._cpu() - self._cpu_s
        self._usage = Usage(cpu_s, time.monotonic() - self._began, self.pss_mb())

    @property
    def usage(self) -> Usage:
        """Between `begin` and `end`."""
        if self._usage is None:
            self.end()
        assert self._usage is not None
        return self._usage

    def pss_mb(self) -> float:
        """Memory now, in MB: PSS, or resident memory where the system has no PSS."""
        total = 0
        for one in self._family():
            with contextlib.suppress(self._error):
                memory = one.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
        return total / 1e6

    def _family(self) -> list[Any]:
        return [self._process, *self._process.children(recursive=True)]

    def _cpu(self) -> float:
        total = 0.0
        for one in self._family():
            with contextlib.suppress(self._error):
                times = one.cpu_times()
                total += times.user + times.system
        return total


def load_psutil() -> Any:
    """The module psutil.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise MissingExtraError(
            "psutil, which measures a server's process, is not installed; "
            "pip install 'limelens[bench]'"
        ) from error
    return psutil


def local_server(address: str) -> int | None:
    """The process that listens on an address of this machine; None if that is unknown.

    If several processes do, it is their parent.

    Raises:
        MissingExtraError: psutil, which an address of this machine needs, is not installed.
    """
    port = address.rpartition(":")[2]
    if not is_loopback(address) or not port.isdecimal():
        return None
    psutil = load_psutil()
    try:
        pids = {
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == int(port)
        }
        if len(pids) > 1 and None not in pids:
            pids = {psutil.Process(pid).ppid() for pid in pids}
    except psutil.Error:
        return None
    pid = pids.pop() if len(pids) == 1 else None
    return int(pid) if pid else None


@contextlib.contextmanager
def started(command: Sequence[str], *, log: Path | None = None) -> Iterator[ServerProcess]:
    """A server in its own process, stopped at the end.

    The command starts one and prints `… on HOST:PORT …` once it listens. Its stderr goes to the
    log, or to this process's own.

    Raises:
        UnavailableError: It did not start, or never reported SERVING.
    """
    began = time.monotonic()
    # In a session of its own Ctrl-C does not reach the server: this process stops it.
    with contextlib.nullcontext() if log is None else log.open("w") as stderr:
        process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().strip()
        if " on " not in ready:
            where = "above" if log is None else str(log)
            raise UnavailableError(f"the server did not start; see {where} (exit {process.wait()})")
        address = ready.rpartition(" on ")[2].split()[0]
        _wait_until_serving(address, began + _START_S)
        yield ServerProcess(address, time.monotonic() - began, process, ready)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _wait_until_serving(address: str, deadline: float) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    serving = health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(address, address_options(address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                if stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == serving:
                    return
            time.sleep(0.01)
    raise UnavailableError(f"the server on {address} never reported SERVING")
