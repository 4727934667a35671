"""Both clients behind one interface, and a real server that records its calls."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from limelens.serve import AsyncClient, Client
from limelens.serve.access.config import AccessConfig
from limelens.serve.access.guard import Guard
from limelens.serve.access.policy import Access
from limelens.serve.bundle import Bundle
from limelens.serve.errors import LimelensError
from limelens.serve.repository.model_repository import Repository
from limelens.serve.rpc.classifier_service import SERVICE_NAME, ClassifierService
from limelens.serve.rpc.faces.face_runner import FaceRunner
from limelens.serve.rpc.interceptor import CallInterceptor
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.server import MAX_MESSAGE_BYTES
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.status import to_abort
from limelens.v1 import classifier_service_pb2_grpc as service_grpc


class Loop:
    """An event loop that runs in a thread, as a program's would."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(120)

    def stop(self) -> None:
        async def rest() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.loop.shutdown_asyncgens()
            await self.loop.shutdown_default_executor()

        self.run(rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()


class Plainly:
    """An `AsyncClient` whose calls are made from plain code."""

    def __init__(self, client: AsyncClient, loop: Loop) -> None:
        self._client, self._loop = client, loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def begin(*args: Any, **kwargs: Any) -> Any:
            made = method(*args, **kwargs)
            return await made if inspect.iscoroutine(made) else made

        def call(*args: Any, **kwargs: Any) -> Any:
            made = self._loop.run(begin(*args, **kwargs))
            return self._read(made) if inspect.isasyncgen(made) else made

        return call

    def _read(self, source: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    item = self._loop.run(anext(source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._loop.run(source.aclose())


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.stop()


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients a test is about."""
    name: str = request.param
    return name


@pytest.fixture
def connect(kind: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients that are closed after the test; arguments as of `Client`."""
    made: list[Any] = []
    loop = request.getfixturevalue("loop") if kind == "AsyncClient" else None

    def make(address: str, **settings: Any) -> Any:
        if loop is None:
            made.append(Client(address, **settings))
        else:
            made.append(Plainly(AsyncClient(address, **settings), loop))
        return made[-1]

    yield make
    for client in made:
        client.close()


class Witness(grpc.aio.ServerInterceptor):
    """Sees every call before the service does, and refuses as many as `refusals` holds."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], float]] = []
        self.refusals: list[LimelensError | grpc.StatusCode] = []

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        self.calls.append((name, dict(details.invocation_metadata), time.monotonic()))
        handler = await continuation(details)
        if not self.refusals:
            return handler
        error = self.refusals.pop(0)

        async def refuse(_request: Any, context: Any) -> None:
            if isinstance(error, grpc.StatusCode):
                await context.abort(error, "as gRPC itself refuses")
            else:
                await context.abort(*to_abort(error, "id"))

        return grpc.unary_unary_rpc_method_handler(refuse, None, None)


class WitnessedServer:
    """The service behind an interceptor, on a port of its own."""

    def __init__(self, models: Path, settings: ServiceSettings, listen: str) -> None:
        self.witness = Witness()
        self._is_stopped = False
        self._loop = Loop()
        self._runner = ModelRunner(Repository(models, "cpu", num_threads=2), settings)
        self._service = ClassifierService(self._runner, FaceRunner(self._runner, None))

        async def start() -> int:
            self._server = grpc.aio.server(
                interceptors=[
                    self.witness,
                    CallInterceptor([SERVICE_NAME], Guard(Access(AccessConfig()))),
                ],
                options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)],
            )
            service_grpc.add_ClassifierServiceServicer_to_server(  # type: ignore[no-untyped-call]
                self._service, self._server
            )
            port: int = self._server.add_insecure_port(listen)
            await self._server.start()
            return port

        self.address = f"127.0.0.1:{self._loop.run(start())}"

    def stop(self) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        self._loop.run(self._server.stop(5))
        self._runner.close()
        self._service.close()
        self._loop.stop()


@pytest.fixture
def start_witnessed(one_model: Path) -> Iterator[Callable[..., WitnessedServer]]:
    started: list[WitnessedServer] = []

    def start(
        settings: ServiceSettings | None = None, listen: str = "127.0.0.1:0"
    ) -> WitnessedServer:
        started.append(WitnessedServer(one_model, settings or ServiceSettings(), listen))
        return started[-1]

    yield start
    for server in started:
        server.stop()


class Gate:
    """While it is closed, every run of a model waits."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.num_entered = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, predict = Gate(), Bundle.predict

    def held(self: Bundle, images: Any) -> Any:
        gate.num_entered += 1
        assert gate.opened.wait(120)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", held)
    yield gate
    gate.opened.set()
