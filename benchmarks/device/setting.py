"""The settings of all parts: device, durations and process layouts; also starts the servers.

It knows the command line of `limelens serve`; older versions may lack an option.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.device.card import gpu_name
from benchmarks.device.floors import Device
from benchmarks.device.isolated import cores
from benchmarks.device.report import Report
from benchmarks.untrained import NETWORKS, network_model
from limelens.cli.bench import serve_command
from limelens.cli.serving import packaged_models, serve
from limelens.serve.errors import LimelensError
from limelens.serve.tools.load import LoadPlan, ServerProcess, started

LOGS: Final = Path("build") / "device"
_TAIL_LINES: Final = 15
_MOST_SENDERS: Final = 8
_TIMEOUT_S: Final = 20.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Layout:
    """The processes of a server.

    Args:
        processes: How many serve; None leaves it to the server.
        device_process: Whether one more owns the device.
    """

    processes: int | None = None
    device_process: bool = False

    def __str__(self) -> str:
        return f", {' '.join(self.options)}" if self.options else ""

    @property
    def options(self) -> tuple[str, ...]:
        """For `limelens serve`."""
        number = () if self.processes is None else ("--processes", str(self.processes))
        return (*number, "--device-process") if self.device_process else number


@dataclass(frozen=True)
class Setting:
    """The settings of all parts.

    Args:
        device: Where models run.
        seconds: Of each measurement.
        layouts: Of servers; the bounds apply to the first.
        report: Gets the metrics.
        deadline: By `time.monotonic`: no measurement begins later.
    """

    device: Device
    seconds: float
    layouts: tuple[Layout, ...]
    report: Report
    deadline: float = field(default=float("inf"))

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, at least one."""
        return max(1.0, self.deadline - time.monotonic())

    def check_time(self) -> None:
        """Fails if there is no time for another measurement.

        Raises:
            LimelensError: It is so.
        """
        if time.monotonic() >= self.deadline:
            raise LimelensError("there was no time left; see --limit")

    def plan(self, server: ServerProcess, images: Sequence[bytes], **given: Any) -> LoadPlan:
        """Load on a server, sent by several processes over as many connections as callers."""
        self.check_time()
        callers = given.get("callers", 0)
        settings = {
            "callers": 0,
            "duration_s": self.seconds,
            "warmup_s": 0.7,
            "deadline_s": _TIMEOUT_S,
            "explain_deadline_s": _TIMEOUT_S,
            "processes": min(_MOST_SENDERS, max(1, len(cores()) // 2)),
            "connections": min(64, callers) or 16,
            **given,
        }
        return LoadPlan(server.address, tuple(images), **settings)


def models() -> dict[str, Path]:
    """The shipped model and the networks by name; these are made on the first call."""
    return {
        "shipped": packaged_models() / "facemask" / "2" / "model.onnx",
        **{name: network_model(name) for name in NETWORKS},
    }


@contextmanager
def serving(
    setting: Setting,
    repository: Path,
    *options: str,
    device: Device | None = None,
) -> Iterator[ServerProcess]:
    """A server in separate processes; after an error the end of its log is printed.

    Args:
        setting: Names the device.
        repository: The models.
        options: More of `limelens serve`.
        device: In place of the setting's.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"server-{next(_numbers)}.log"
    command = serve_command(repository, "--device", device or setting.device, *options)
    failures = len(setting.report.failures)
    is_whole = False
    try:
        with ExitStack() as stack:
            server = started([*command, "--log-level", "warning"], log=log)
            yield stack.enter_context(server)
        is_whole = failures == len(setting.report.failures)
    finally:
        if not is_whole:
            _print_tail(log, setting.report)


def _print_tail(log: Path, report: Report) -> None:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    report.note(
        "\n    ".join([f"the server said ({log}):", *(lines[-_TAIL_LINES:] or ["nothing"])])
    )


@cache
def serve_knows(option: str) -> bool:
    """Whether `limelens serve` has an option, by its name without dashes before."""
    return option.replace("-", "_") in inspect.signature(serve).parameters


def known_layouts(wanted: Sequence[Layout], report: Report) -> tuple[Layout, ...]:
    """The layouts that this limelens supports; reports the others."""
    found: list[Layout] = []
    for layout in wanted:
        options = [one for one in layout.options if one.startswith("--")]
        if all(serve_knows(one.removeprefix("--")) for one in options):
            found.append(layout)
        else:
            report.note(f"this limelens serve does not know all of {layout}: it is left out")
    return tuple(found) or (Layout(),)


def machine() -> dict[str, Any]:
    """The properties of the machine that affect metrics."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"gpu": gpu_name(), "cores": len(cores())}
    found["python"] = platform.python_version()
    for package in ("onnxruntime-gpu", "onnxruntime", "grpcio", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
