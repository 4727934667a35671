"""The life of a server's process: what it reports at its start, and what it does at signals.

SIGTERM or SIGINT stops the server, with exit code 0; a second one ends the process at once. SIGHUP
looks for new versions and never ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from limelens.serve.repository.registry import ModelRegistry, ready_line
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.service_manager import ServiceManager

if TYPE_CHECKING:
    from limelens.serve.observing.http import HttpPort

_NVIDIA: Final = Path("/proc/driver/nvidia")
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
ENDING_S: Final = 5.0
"""How long after the grace period the end may take."""
_PROOF_S: Final = 10.0
_log = logging.getLogger(__name__)


class Signals:
    """Handles signals within its context, which the process's main thread enters.

    Args:
        leaves_early: Whether a signal before `follow` ends the process at once. Raising an error
            while models load does not work: libraries turn it into others.
    """

    def __init__(self, *, leaves_early: bool) -> None:
        self._leaves_early = leaves_early
        self._number = 0
        self._wants_reload = False
        self._on_stop: Callable[[], object] | None = None
        self._on_reload: Callable[[], object] | None = None
        self.on_hurry: Callable[[], object] = lambda: None
        """Acts quickly before a second signal ends the process."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        numbers = [*_STOPPING]
        if hasattr(signal, "SIGHUP"):
            numbers.append(signal.SIGHUP)
        for number in numbers:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def follow(
        self, on_stop: Callable[[], object], on_reload: Callable[[], object] | None = None
    ) -> None:
        """Sets what signals do, and does it at once for those that came before.

        Both functions are called between any two lines of the main thread. Without `on_reload`
        nothing can reload yet.
        """
        self._on_stop, self._on_reload = on_stop, on_reload
        if self._number:
            on_stop()
        if self._wants_reload and on_reload is not None:
            self._wants_reload = False
            on_reload()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number not in _STOPPING:
            if self._on_reload is not None:
                self._on_reload()
            else:
                self._wants_reload = True
            return
        if self._number:
            try:
                self.on_hurry()
            finally:
                # Without the cleanup of Python and libraries, which would wait for running models,
                # and abort if calls are in flight.
                os._exit(128 + number)
        self._number = number
        if self._on_stop is not None:
            self._on_stop()
        elif self._leaves_early:
            os._exit(0)


def proof_pause_s(manager: ServiceManager) -> float:
    """Seconds between two proofs that models run; several for each bite of the watchdog."""
    return min(_PROOF_S, manager.watchdog_s / 8 or _PROOF_S)


async def feed(manager: ServiceManager, is_alive: Callable[[], bool]) -> None:
    """Feeds the service manager's watchdog, if there is one, while something is alive.

    As it runs on the event loop, the watchdog bites too if that is blocked.
    """
    while manager.watchdog_s:
        if is_alive():
            manager.alive()
        await asyncio.sleep(manager.watchdog_s / 8)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop if it is installed, which takes less CPU for each call."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def report_start(
    config: ServerConfig,
    models: ModelRegistry,
    address: str,
    http: HttpPort | None,
    announce: Callable[[str], Any],
) -> None:
    """Logs what an operator may not expect, and announces what is served at which address.

    A failure to announce does not end the server.
    """
    # The CPU is no surprise if there is no GPU and none was requested.
    is_surprise = config.device != "auto" or _NVIDIA.exists()
    for one in models.served:
        if one.bundle.provider_reason and config.device != "cpu":
            _log.log(
                logging.WARNING if is_surprise else logging.INFO,
                "%s runs on the CPU: %s",
                one.name,
                one.bundle.provider_reason,
            )
    if config.sends_tokens_in_plaintext:
        _log.warning("tokens travel in plaintext, where anybody in between can read them")
    line = ready_line(address, models, config.processes)
    _log.info("%s", line)
    if http is not None:
        _log.info("metrics and probes on http://%s", http.address)
    try:
        announce(line)
    except OSError as error:
        _log.warning("cannot write to stdout (%s); ready: %s", error.strerror or error, line)
