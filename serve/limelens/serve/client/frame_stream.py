"""The camera's stream of a client: frames out, answers in, over one connection after another.

`Feed` holds the state; this module waits for frames, connections and answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from limelens.serve.client.feeding import PAUSE_S, Feed
from limelens.serve.client.requests import frame_request
from limelens.serve.client.responses import frame_answer
from limelens.serve.client.results import FrameAnswer
from limelens.serve.client.transport import Transport
from limelens.serve.errors import LimelensError
from limelens.v1 import classifier_service_pb2 as service_pb2


@dataclass(frozen=True)
class FrameStream:
    """One stream of frames.

    Args:
        transport: Waits.
        stub: Opens a connection for one call.
        metadata: Makes the metadata of one call.
        feed: The frames; of this stream alone.
        changed: The transport's signal of changes of `feed`.
        config: The first message of each call.
        wait_for_ready: Whether a call waits for a server that is not there yet.
    """

    transport: Transport
    stub: Callable[[], AbstractAsyncContextManager[Any]]
    metadata: Callable[[], Coroutine[Any, Any, Any]]
    feed: Feed
    changed: Any
    config: service_pb2.ClassifyStreamRequest
    wait_for_ready: bool

    async def answers(self, frames: Any, *, reconnect: bool) -> AsyncGenerator[FrameAnswer, None]:
        """Sends frames and yields their answers.

        Args:
            frames: As for `Calls.stream`.
            reconnect: Whether to open another call if one fails.
        """
        feed, changed = self.feed, self.changed
        reading = self.transport.start(self._read_frames, frames)
        try:
            while True:
                failure: LimelensError | None = None
                try:
                    async with aclosing(self._one_connection()) as answers:
                        async for answer in answers:
                            yield answer
                except LimelensError as error:
                    failure = error
                with changed:
                    pause_s = feed.pause_after(failure) if reconnect and failure else None
                    given_up = feed.take_given_up()
                for answer in given_up:
                    yield answer
                if feed.error is not None:
                    raise feed.error
                if failure is not None and pause_s is None:
                    raise failure
                if pause_s is None:
                    return
                await self.transport.sleep(pause_s)
                with changed:
                    await changed.until(lambda: feed.closed or feed.has_next or feed.is_empty)
                if feed.is_empty:
                    if feed.error is not None:
                        raise feed.error
                    return
        finally:
            with changed:
                feed.closed = True
                changed.notify_all()
            await self.transport.stop([reading], may_hang=True)

    async def _one_connection(self) -> AsyncGenerator[FrameAnswer, None]:
        """The answers that come over one connection, until it ends or fails."""
        feed, changed = self.feed, self.changed
        metadata = await self.metadata()
        ended = False

        async def messages() -> AsyncGenerator[service_pb2.ClassifyStreamRequest, None]:
            """What is sent; gRPC takes the next message once the last is on its way."""
            yield self.config
            while True:
                with changed:
                    await changed.until(
                        lambda: feed.closed or ended or feed.has_next or feed.is_empty
                    )
                    if feed.closed or ended or not feed.has_next:
                        return
                    frame = feed.take()
                    changed.notify_all()
                try:
                    message = await self.transport.in_thread(frame_request, frame)
                except Exception as error:  # gRPC would end the stream and hide why
                    with changed:
                        feed.end(error)
                    return
                yield message

        async with self.stub() as stub:
            call = stub.ClassifyStream(
                self.transport.requests(messages()),
                wait_for_ready=self.wait_for_ready,
                metadata=metadata,
            )
            try:
                async with aclosing(self.transport.responses(call)) as responses:
                    async for response in responses:
                        with changed:
                            answers = feed.received(frame_answer(response))
                            changed.notify_all()
                        for answer in answers:
                            yield answer
            finally:
                call.cancel()
                with changed:
                    ended = True
                    changed.notify_all()

    async def _read_frames(self, frames: Any) -> None:
        """Reads the camera while its frames are wanted."""
        feed, changed = self.feed, self.changed
        failure: Exception | None = None
        try:
            source = self.transport.items(frames)
            while True:
                with changed:
                    await changed.until(lambda: feed.closed or feed.wants)
                    if feed.closed:
                        return
                try:
                    frame = await anext(source)
                except StopAsyncIteration:
                    return
                with changed:
                    overtook = feed.put(frame)
                    changed.notify_all()
                # A source that never waits must not keep the sender or a core busy.
                await self.transport.sleep(PAUSE_S if overtook else 0)
        except Exception as error:
            failure = error
        finally:
            with changed:
                feed.end(failure)
                changed.notify_all()
