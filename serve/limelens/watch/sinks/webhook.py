"""Delivers events to a receiver, each once and in order, whoever is killed or cut off meanwhile.

An event is in the spool before it is sent, and stays there until the receiver has taken it. An
attempt whose answer was lost is made again with the same id, by which the receiver knows it. This
module does not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

import httpx
from tenacity import AsyncRetrying, RetryCallState, RetryError, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from limelens.serve.wording import counted
from limelens.watch.event import ON_CHANGE, EventType
from limelens.watch.sinks.message import Message
from limelens.watch.sinks.posting import LaterError, Receiver, RefusedError
from limelens.watch.sinks.rejected import Rejected
from limelens.watch.sinks.spool import Spool, Spooled
from limelens.watch.sinks.threaded import ThreadedSink
from limelens.watch.sinks.webhook_settings import WebhookSettings

_FIRST_WAIT_S: Final = 1.0
_SAVE_AGAIN_S: Final = 5.0
_FRESH_S: Final = 5.0
"""An older heartbeat says nothing."""


class WebhookSink(ThreadedSink):
    """Posts events to one receiver.

    Raises:
        SecretError, SinkError: The secret, the spool or the authorities cannot be used.
    """

    def __init__(self, settings: WebhookSettings) -> None:
        beats = (EventType.HEARTBEAT,) if settings.heartbeat else ()
        super().__init__(settings.name, (*ON_CHANGE, *beats))
        # It logs whole addresses, which may hold secrets.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._receiver = Receiver(settings)
        self._spool = Spool(settings.spool, settings.max_spooled)
        self._rejected = Rejected(settings.spool)
        self._backoff = wait_random_exponential(
            multiplier=min(_FIRST_WAIT_S, settings.max_wait_s), max=settings.max_wait_s
        )
        self._beats: dict[str, Message] = {}
        self._said = ""
        self._thread.start()

    def _problems(self) -> list[str]:
        num = len(self._spool)
        waiting = f"; {counted(num, 'event')} waiting" if num else ""
        return [
            self._said + waiting if self._said else "",
            self._spool.problem,
            self._rejected.problem,
        ]

    async def _work(self) -> None:
        self._arrived = asyncio.Event()
        self._ends = asyncio.Event()
        async with self._receiver.connecting() as client:
            sending = asyncio.create_task(self._send(client))
            sending.add_done_callback(lambda _: self._mailbox.ring())
            try:
                while not self._is_closing and not sending.done():
                    self._take()
                    await self._mailbox.arrived(_SAVE_AGAIN_S if self._spool.problem else None)
                self._take()
                self._ends.set()
                self._arrived.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._left_s):
                        await sending
            finally:
                sending.cancel()
                await asyncio.wait([sending])  # or the loop may end before its connection does
                if self._is_closing:
                    self._spool.close()

    def _take(self) -> None:
        """Moves what has come into the spool."""
        changes = []
        for message in self._mailbox.take():
            if message.type is EventType.HEARTBEAT:
                self._beats[message.camera_id] = message
            else:
                self._beats.pop(message.camera_id, None)
                changes.append(message)
        self._spool.add(changes)
        self._arrived.set()

    async def _send(self, client: httpx.AsyncClient) -> None:
        """Delivers one after the other; ends when the sink closes and no more can be delivered."""
        while True:
            self._arrived.clear()
            if (message := self._spool.first()) is not None:
                if not await self._deliver(client, message):
                    return
                self._spool.remove(message)
            elif self._beats:
                await self._send_beat(client)
            elif self._ends.is_set():
                return
            else:
                await self._arrived.wait()

    async def _deliver(self, client: httpx.AsyncClient, message: Spooled) -> bool:
        """Tries until the event is taken or refused; False if the sink closes before."""
        trying = AsyncRetrying(
            retry=retry_if_exception_type(LaterError),
            wait=self._wait_s,
            stop=lambda _: self._ends.is_set(),
            sleep=self._sleep,
            before_sleep=self._say,
        )
        try:
            await trying(self._receiver.post, client, message)
        except RetryError:
            return False
        except RefusedError as error:
            self._rejected.add(message.body, error.status, error.answer, str(error))
        self._said = ""
        return True

    async def _send_beat(self, client: httpx.AsyncClient) -> None:
        beat = self._beats.pop(next(iter(self._beats)))
        if time.monotonic() - beat.at > _FRESH_S:
            return
        try:
            await self._receiver.post(client, Spooled(beat.id, beat.body))
            self._said = ""
        except (LaterError, RefusedError) as error:
            self._said = str(error)

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = error.retry_after_s if isinstance(error, LaterError) else 0.0
        return max(self._backoff(state), asked_s)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ends.wait()

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        self._said = f"{error}; trying again" if error is not None else ""
