"""Says the cameras' states by MQTT: retained, so that whoever comes later knows them.

Nothing here may leave an old `clear` standing. States come before `online`; while the broker is
away the newest counts; at the end every state is unknown; and what ends without a word is said to
be offline by the broker. This module does not know how an event comes about.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from aiomqtt import MqttError, Will

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.wording import counted
from limelens.watch.event import ON_CHANGE, Event, EventType, new_event_id
from limelens.watch.secret import SecretError
from limelens.watch.sinks.broker_client import (
    BrokerClient,
    client_of,
    password_of,
    tls_of,
    why,
)
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.message import Message, message_of
from limelens.watch.sinks.mqtt_settings import MqttSettings
from limelens.watch.sinks.threaded import ThreadedSink
from limelens.watch.sinks.topics import OFFLINE, ONLINE, Topics, announcements

_MAX_EVENTS: Final = 1000
"""Events that wait for the broker; MQTT is for now, the webhook and the record for every event."""
_FIRST_WAIT_S: Final = 1.0
_LOOK_S: Final = 1.0
"""Between two looks for states that expired in silence."""
_STEADY_S: Final = 10.0
"""A connection that lasted so long was a good one: the next wait is short again."""


class MqttSink(ThreadedSink):
    """Publishes states and events to one broker.

    Args:
        settings: The broker, and the topics.
        cameras: Their ids; each is unknown until its first event comes.
        is_stale: Whether a camera's decision expired and nobody said so. States are repeated here,
            by a thread that knows nothing of whether the others still watch.

    Raises:
        SecretError, SinkError: The password, the authorities or the certificate cannot be used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        cameras: Sequence[str] = (),
        is_stale: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__("mqtt", (*ON_CHANGE, EventType.HEARTBEAT))
        self._settings = settings
        self._topics = Topics(settings.base_topic)
        self._tls = tls_of(settings)
        password_of(settings)
        self._states = {one: _unknown(one, None, UnknownReason.STARTING) for one in cameras}
        self._is_stale = is_stale
        self._stale: set[str] = set()
        self._unsaid = set(self._states)
        self._announced: set[str] = set()
        self._events: deque[Message] = deque(maxlen=_MAX_EVENTS)
        self._num_lost = 0
        self._repeats_at = 0.0
        self._said = ""
        self._refused: dict[str, str] = {}
        self._thread.start()

    def _problems(self) -> list[str]:
        lost = self._num_lost
        return [
            self._said or self._refusals(),
            f"{counted(lost, 'event')} not said while it was away" if lost else "",
        ]

    def _refusals(self) -> str:
        refused = dict(self._refused)
        if not refused:
            return ""
        topic, reason = next(iter(refused.items()))
        prefix = self._settings.discovery_prefix
        rights = f"{self._settings.base_topic}/#" + (f" and {prefix}/#" if prefix else "")
        return (
            f"{self._settings.address}: refuses {counted(len(refused), 'topic')}, such as {topic}: "
            f"{reason}; expected the right to write {rights}"
        )

    async def _work(self) -> None:
        num_failed = 0
        while not self._is_closing:
            began = time.monotonic()
            try:
                will = Will(self._topics.status, OFFLINE, qos=1, retain=True)
                async with client_of(self._settings, self._tls, will) as client:
                    self._said, self._refused = "", client.refused
                    await self._publish_until_the_end(client)
                    return
            except (MqttError, SecretError, SinkError, OSError, ValueError) as error:
                self._said = (
                    f"{self._settings.address}: {why(error, tls=self._settings.tls)}; trying again"
                )
            num_failed = 1 if time.monotonic() - began > _STEADY_S else num_failed + 1
            longest_s = min(_FIRST_WAIT_S * 2 ** min(num_failed - 1, 12), self._settings.max_wait_s)
            await self._pause(random.uniform(longest_s / 2, longest_s))

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_closing and (left_s := until - time.monotonic()) > 0:
            await self._mailbox.arrived(left_s)
            self._take()

    async def _publish_until_the_end(self, client: BrokerClient) -> None:
        lost = asyncio.create_task(_until_lost(client))
        lost.add_done_callback(lambda _: self._mailbox.ring())
        try:
            self._announced = set()
            self._unsaid = set(self._states)
            await self._publish_news(client, events=False)
            await client.say(self._topics.status, ONLINE, retain=True)
            while not self._is_closing:
                self._repeats_at = time.monotonic() + self._settings.repeat_s
                while not self._is_closing and time.monotonic() < self._repeats_at:
                    await self._publish_news(client)
                    await self._mailbox.arrived(self._next_s())
                    if lost.done():
                        lost.result()
                self._unsaid |= set(self._states)
            await self._say_goodbye(client)
        finally:
            lost.cancel()
            with contextlib.suppress(MqttError, asyncio.CancelledError):
                await lost

    async def _publish_news(self, client: BrokerClient, *, events: bool = True) -> None:
        """Publishes what was not said yet: states first, since a door waits for them."""
        while True:
            self._take()
            if self._unsaid:
                camera_id = next(iter(self._unsaid))
                await self._publish_state(client, camera_id)
                self._unsaid.discard(camera_id)
            elif events and self._events:
                event = self._events[0]
                await client.say(self._topics.events(event.camera_id), event.body)
                self._events.popleft()
            else:
                return

    async def _publish_state(self, client: BrokerClient, camera_id: str) -> None:
        message = self._states[camera_id]
        if camera_id in self._stale and message.state is not CameraState.UNKNOWN:
            message = _unknown(camera_id, message, UnknownReason.EXPIRED)
        if self._settings.discovery_prefix and camera_id not in self._announced:
            for topic, payload in announcements(self._settings, camera_id).items():
                await client.say(topic, payload, retain=True)
            self._announced.add(camera_id)
        topics = self._topics
        expires_s = int(3 * self._settings.repeat_s) if self._settings.version == "5" else None
        for topic, said in (
            (topics.state(camera_id), message.state.value.encode()),
            (topics.details(camera_id), message.body),
        ):
            await client.say(topic, said, retain=True, expires_s=expires_s)

    async def _say_goodbye(self, client: BrokerClient) -> None:
        """Leaves no state behind that nobody watches over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._left_s):
                await self._publish_news(client)
                for camera_id, before in self._states.items():
                    self._states[camera_id] = _unknown(camera_id, before, UnknownReason.OFF)
                    await self._publish_state(client, camera_id)
                await client.say(self._topics.status, OFFLINE, retain=True)

    def _take(self) -> None:
        """Takes what has come, and the states of cameras that have gone silent."""
        for message in self._mailbox.take():
            before = self._states.get(message.camera_id)
            self._states[message.camera_id] = message
            is_beat = message.type is EventType.HEARTBEAT
            if before is None or before.state is not message.state or not is_beat:
                self._unsaid.add(message.camera_id)
            if message.type in ON_CHANGE:
                self._num_lost += len(self._events) == self._events.maxlen
                self._events.append(message)
        stale = {camera_id for camera_id in self._states if self._is_stale(camera_id)}
        self._unsaid |= stale ^ self._stale
        self._stale = stale
        limit_s = self._settings.expire_after_s
        for camera_id, message in self._states.items():
            is_silent = limit_s and time.monotonic() - message.at > limit_s
            if is_silent and message.state is not CameraState.UNKNOWN:
                self._states[camera_id] = _unknown(camera_id, message, UnknownReason.EXPIRED)
                self._unsaid.add(camera_id)

    def _next_s(self) -> float:
        """Seconds until there is something to do even if nothing comes."""
        due = [self._repeats_at, time.monotonic() + _LOOK_S]
        if limit_s := self._settings.expire_after_s:
            known = (one for one in self._states.values() if one.state is not CameraState.UNKNOWN)
            due += [one.at + limit_s for one in known]
        return max(min(due) - time.monotonic(), 0.01)


async def _until_lost(client: BrokerClient) -> None:
    """Ends when the connection does.

    Raises:
        MqttError: It was lost.
    """
    async for _ in client.messages:
        pass


def _unknown(camera_id: str, before: Message | None, reason: UnknownReason) -> Message:
    """The state of a camera of which the sink itself says that it is unknown; its number is 0."""
    return message_of(
        Event(
            id=new_event_id(),
            camera_id=camera_id,
            sequence=0,
            type=EventType.STATE,
            time=datetime.now(UTC),
            state=CameraState.UNKNOWN,
            previous=CameraState.UNKNOWN if before is None else before.state,
            reason=reason.value,
        )
    )
