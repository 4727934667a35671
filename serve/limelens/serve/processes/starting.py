"""Reports a server's start: warnings to the log, and a line for those who wait for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc.server_config import ServerConfig

_NVIDIA: Final = Path("/proc/driver/nvidia")
_log = logging.getLogger(__name__)


def log_start(config: ServerConfig, models: ModelRegistry) -> None:
    """Logs what an operator may not expect.

    Args:
        config: How the server is set up.
        models: The models that it serves.
    """
    # The CPU is no surprise if there is no GPU and nobody asked for one.
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


def announce_to(announce: Callable[[str], Any], line: str) -> None:
    """Announces that a server answers; a failure to do so does not end the server.

    Args:
        announce: Receives the line.
        line: The models and the address.
    """
    try:
        announce(line)
    except OSError as error:
        _log.warning("stdout cannot be written (%s), so here: %s", error.strerror or error, line)
