"""Engines prove that they answer by a run that nobody asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tests.serve.stand_in import stand_in
from tests.waiting import until

from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.proofs import Proofs
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.scheduling.inference import FittedImage


@contextmanager
def proving(proofs: Proofs, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(proofs.run())

    async def end() -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    running = asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    yield
    asyncio.run_coroutine_threadsafe(end(), loop).result(60)


@contextmanager
def looping() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class OneModel:
    """A registry of one bundle."""

    def __init__(self, bundle: Any) -> None:
        self.bundle = bundle
        self.served = [self]

    def record(self, _bundle: Any, *, ok: bool) -> None:
        assert ok


def test_proofs_of_an_idle_server_are_new_and_counted_nowhere(
    start_server: Callable[..., Any], models: Path
) -> None:
    server = start_server(models)
    proofs = Proofs(server.server.runner, 0.01)
    until(lambda: proofs.age_s > 1)
    with proving(proofs, server.loop):
        until(lambda: proofs.age_s < 1)
    counts = server.counts("colours")
    assert (counts.run, counts.dropped, counts.refused) == (0, 0, 0)


def test_a_device_that_hangs_is_not_proved(one_model: Path) -> None:
    goes_on = threading.Event()
    goes_on.set()
    runs: list[object] = []

    def hang(inputs: dict[str, Any]) -> None:
        runs.append(inputs)
        goes_on.wait(60)

    [path] = one_model.glob("*/*/model.onnx")
    bundle = stand_in(path, on_run=hang)
    runner = ModelRunner(OneModel(bundle), ServiceSettings())  # type: ignore[arg-type]
    proofs = Proofs(runner, 0.01)
    with looping() as loop, proving(proofs, loop):
        done = len(runs)
        until(lambda: len(runs) > done + 2)  # each proof is a real run
        goes_on.clear()
        until(lambda: proofs.age_s > 1)
        image = FittedImage(np.zeros((32, 32, 3), np.uint8))
        call = asyncio.run_coroutine_threadsafe(
            runner.engine(bundle).classify(bundle, [image]), loop
        )
        goes_on.set()
        assert len(call.result(60)) == 1
        until(lambda: proofs.age_s < 1)
        assert runner.engine(bundle).counts.run == 1
    runner.close()
