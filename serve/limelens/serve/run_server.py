"""Runs a server until a signal ends it: in this process, or in several under a supervisor.

It knows the order of start and stop. What a server is, the rooms below it know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from limelens.serve.image.decoder_client import start_decoder
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.registry import ready_line
from limelens.serve.rpc.server import Server, allow_many_connections, loop_factory, open_repository
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.rpc.signals import Signals
from limelens.serve.rpc.starting import announce_to, log_start
from limelens.serve.rpc.transport.memory import give_large_blocks_back

_log: Final = logging.getLogger(__name__)


def serve(config: ServerConfig, announce: Callable[[str], Any] = print) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: How the server is set up.
        announce: Is given one line once the server answers.

    Returns:
        The exit code, 0: the server was told to stop and did.

    Raises:
        BundleError: There is nothing to serve.
        ProviderError: The device that was asked for cannot be used.
        ListenError: The address may not or cannot be listened on.
        AccessPolicyError: What says who may call is missing or cannot be used.
    """
    config.check()
    if config.processes > 1:
        from limelens.serve.processes.supervisor import supervise

        return supervise(config, announce)
    allow_many_connections()
    give_large_blocks_back()
    if config.http is not None:
        from limelens.serve.observing.http import check_address

        check_address(config.http, insecure=config.insecure_http)
    with Signals(leaves_early=True) as signals:
        repository = open_repository(config)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(config, repository, announce, signals))
    return 0


async def _run(
    config: ServerConfig,
    repository: Repository,
    announce: Callable[[str], Any],
    signals: Signals,
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    server = Server(config, repository)
    signals.on_hurry(server.leave)
    await server.start()
    signals.follow(
        lambda: loop.call_soon_threadsafe(told.set),
        lambda: loop.call_soon_threadsafe(server.reload),
    )
    log_start(config, repository)
    line = ready_line(server.address, repository)
    _log.info("%s", line)
    if server.http is not None:
        _log.info("metrics and probes on http://%s", server.http.address)
    announce_to(announce, line)
    warming = asyncio.create_task(asyncio.to_thread(start_decoder))  # for the first slow image
    await told.wait()
    await warming
    _log.info("told to stop; calls under way have %g seconds", config.grace_s)
    await server.stop()
    _log.info("stopped")
