"""Health (`grpc.health.v1`): of the server, of its services, and of each model by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from limelens.serve.repository.registry import ModelRegistry

SERVICE_NAME: Final = health.SERVICE_NAME


class Health:
    """Keeps the health service up to date with the models that are served.

    Args:
        services: Full names of services that are healthy while any model is served.
    """

    def __init__(self, repository: ModelRegistry, services: Iterable[str]) -> None:
        self._repository = repository
        self._services = (health.OVERALL_HEALTH, *services)
        self._servicer = health.aio.HealthServicer()
        self._known: set[str] = set()
        self._has_device = True
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def add_to(self, server: Any) -> None:
        """Adds the health service to a gRPC server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Reports the health, now and after every change of the models."""
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._changed.set)

        self._unsubscribe = self._repository.subscribe(on_change)
        await self._report()
        self._task = asyncio.create_task(self._follow())

    def follow_device(self, is_there: bool) -> None:
        """Reports nothing as healthy while the device is away; called on the loop."""
        self._has_device = is_there
        self._changed.set()

    async def stop(self) -> None:
        """Reports NOT_SERVING from now on."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
        await self._servicer.enter_graceful_shutdown()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._report()

    async def _report(self) -> None:
        served = {one.name for one in self._repository.served}
        self._known |= served | {one.name for one in self._repository.rejected}
        if not self._has_device:
            served = set()
        states = {name: name in served for name in self._known}
        states |= dict.fromkeys(self._services, bool(served))
        status = health_pb2.HealthCheckResponse
        for name, is_healthy in states.items():
            await self._servicer.set(name, status.SERVING if is_healthy else status.NOT_SERVING)
