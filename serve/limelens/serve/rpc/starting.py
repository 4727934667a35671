"""What a server tells of its start: to the log, and to whoever waits for it to answer."""

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
    """Logs what is odd about what is served, and how.

    Args:
        config: How the server is set up.
        models: What it serves.
    """
    # Without a GPU, and without anybody who named one, the CPU is no news.
    is_news = config.device != "auto" or _NVIDIA.exists()
    for one in models.served:
        if one.bundle.provider_reason and config.device != "cpu":
            _log.log(
                logging.WARNING if is_news else logging.INFO,
                "%s runs on the CPU: %s",
                one.name,
                one.bundle.provider_reason,
            )
    if config.sends_tokens_in_plaintext:
        _log.warning("tokens travel in plaintext, where anybody in between can read them")


def announce_to(announce: Callable[[str], Any], line: str) -> None:
    """Tells that a server answers; that nobody can be told is no reason to end.

    Args:
        announce: Is given the line.
        line: What is served, and where.
    """
    try:
        announce(line)
    except OSError as error:
        _log.warning("stdout cannot be written (%s), so here: %s", error.strerror or error, line)
