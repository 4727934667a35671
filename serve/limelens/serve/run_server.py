"""Runs a server until a signal ends it: in this process, or in several under a supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.image.decoder_client import start_decoder
from limelens.serve.lifecycle import (
    ENDING_S,
    Signals,
    feed,
    loop_factory,
    proof_pause_s,
    report_start,
)
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.registry import status_line
from limelens.serve.rpc.proofs import Proofs
from limelens.serve.rpc.server import Server
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.rpc.transport.listening import allow_many_connections
from limelens.serve.rpc.transport.memory import give_large_blocks_back
from limelens.serve.service_manager import ServiceManager

if TYPE_CHECKING:
    from limelens.serve.observing.drift import DriftWatch
    from limelens.serve.repository.registry import ModelRegistry

_log: Final = logging.getLogger(__name__)


def serve(config: ServerConfig, announce: Callable[[str], Any] = print) -> int:
    """Serves until SIGTERM or SIGINT, and then returns exit code 0.

    Announces one line once the server is ready.

    Raises:
        BundleError: There is no model to serve.
        ProviderError: The requested device cannot be used.
        ListenError: The server may not or cannot listen on an address.
        AccessPolicyError: The files that say who may call are missing or invalid.
    """
    config.check()
    if config.is_supervised:
        from limelens.serve.processes.supervisor import supervise

        return supervise(config, announce)
    manager = ServiceManager()  # before any child could speak in its name
    allow_many_connections()
    give_large_blocks_back()
    if config.http is not None:
        from limelens.serve.observing.http import check_address

        check_address(config.http, insecure=config.insecure_http)
    with Signals(leaves_early=True) as signals:
        repository = open_repository(config)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(config, repository, announce, signals, manager))
    return 0


def open_repository(config: ServerConfig) -> Repository:
    """Loads the models of a configuration."""
    return Repository(
        config.models,
        config.device,
        num_threads=config.num_threads,
        versions=config.versions,
        public_keys=config.public_keys,
        max_batch_size=config.service.max_batch_size,
        tf32=config.tf32,
        hold_back=config.hold_back,
        hold_back_images=config.hold_back_images,
    )


def drift_watch(config: ServerConfig, models: ModelRegistry) -> DriftWatch | None:
    """Watches for drift as the configuration says; see `DriftMonitor` for errors."""
    if not config.drift.references:
        return None
    # Imported only when needed: it loads faiss and scipy.
    from limelens.serve.tools.drift.watching import DriftMonitor

    return DriftMonitor(config.drift, models)


async def _run(
    config: ServerConfig,
    repository: Repository,
    announce: Callable[[str], Any],
    signals: Signals,
    manager: ServiceManager,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    server = Server(config, repository, drift=drift_watch(config, repository))
    signals.on_hurry = server.leave
    await server.start()

    def status() -> str:
        return status_line(server.address, repository)

    def reload() -> None:
        manager.reloading()
        server.reload(lambda: manager.ready(status()))

    signals.follow(
        lambda: loop.call_soon_threadsafe(stop.set), lambda: loop.call_soon_threadsafe(reload)
    )
    report_start(config, repository, server.address, server.http, announce)
    repository.subscribe(lambda: manager.is_now(status()))
    manager.ready(status())
    proofs = Proofs(server.runner, proof_pause_s(manager))
    alive = [asyncio.create_task(feed(manager, lambda: proofs.age_s < manager.watchdog_s / 2))]
    if manager.watchdog_s:
        alive.append(asyncio.create_task(proofs.run()))
    warming = asyncio.create_task(asyncio.to_thread(start_decoder))  # for the first slow image
    await stop.wait()
    manager.stopping(config.grace_s + ENDING_S)
    await warming
    _log.info("stopping; calls in flight have %g seconds", config.grace_s)
    await server.stop()
    for task in alive:
        task.cancel()
    _log.info("stopped")
