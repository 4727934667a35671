"""Proves again and again that a server's engines answer, by a real run of a model.

The golden image of one served model after the other goes through the queue, a worker thread and the
session of its engine. No metric counts it. It does not know what follows if none answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.errors import OverloadedError
from limelens.serve.image import ResizeRule
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.scheduling.inference import NotNeededError, Priority


class Proofs:
    """The proofs of one server.

    Args:
        runner: Has the engines.
        every_s: The pause between two of them, in seconds.
    """

    def __init__(self, runner: ModelRunner, every_s: float) -> None:
        self._runner = runner
        self._every_s = every_s
        self._proved_at = time.monotonic()

    @property
    def age_s(self) -> float:
        """For how long, in seconds, no engine has proved that it answers, or a thread hangs."""
        engines = tuple(self._runner.engines.values())
        unproved_s = time.monotonic() - self._proved_at
        return max([unproved_s, *(engine.longest_at_work_s for engine in engines)])

    async def run(self) -> None:
        """Proves it until it is cancelled; a session that hangs ends the proofs."""
        for number in itertools.count():
            if served := self._runner.repository.served:
                bundle = served[number % len(served)].bundle
                # That the engine is closed is no matter: the server goes down.
                with suppress(NotNeededError, OverloadedError):
                    # Behind frames that wait already, but not behind requests.
                    await self._runner.engine(bundle).classify(
                        bundle, [_Golden(bundle)], priority=Priority.FRAME
                    )
            self._proved_at = time.monotonic()
            await asyncio.sleep(self._every_s)


class _Golden:
    """A `PendingImage` that runs the model by itself, and needs no other run."""

    is_quick = True

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def fitted(self, _rule: ResizeRule) -> NDArray[np.uint8]:
        """Runs the model; always raises `NotNeededError`."""
        with suppress(Exception):  # a model that fails answers
            self._bundle.predict(self._bundle.metadata.golden.image[np.newaxis])
        raise NotNeededError
