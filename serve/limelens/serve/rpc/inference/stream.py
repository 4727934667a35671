"""One stream of requests: several are worked on at a time, and answered in their order.

It knows messages and order, and nothing of what is asked: a function answers each request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio

from limelens.inference import inference_service_pb2 as pb2
from limelens.serve.errors import ExpiredError, OverloadedError, UnavailableError
from limelens.serve.rpc.interceptor import request_id
from limelens.serve.status import forget, is_internal, to_status

IN_FLIGHT: Final = 16
"""Requests of one stream that are worked on or whose answers wait to be read; while there are so
many, no more are taken in."""
_log = logging.getLogger(__name__)

Answer = Callable[[pb2.ModelInferRequest], Awaitable[pb2.ModelInferResponse]]


class RequestStream:
    """One stream from its first request to its end.

    Args:
        answer: Answers one request; raises for one that fails.
        idle_s: A stream that sends nothing, or reads nothing, for so long is ended.
        most: Requests at a time; None is `IN_FLIGHT`, which are the most.
    """

    def __init__(self, answer: Answer, *, idle_s: float, most: int | None = None) -> None:
        self._answer = answer
        self._idle_s = idle_s
        self._room = asyncio.Semaphore(min(most or IN_FLIGHT, IN_FLIGHT))
        # None is the end.
        self._under_way: asyncio.Queue[asyncio.Task[pb2.ModelStreamInferResponse] | None] = (
            asyncio.Queue()
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the stream after the requests under way: the server is going down."""
        self._stopping.set()

    async def run(self, context: Any) -> None:
        """Reads requests and writes answers until the caller ends the stream.

        Raises:
            ExpiredError: Nothing came for too long.
            OverloadedError: The answers were not read.
            UnavailableError: The server is going down.
        """
        # Apart from the first answer, for the reason that cameras do it.
        await context.send_initial_metadata(())
        reading = asyncio.create_task(self._read(context))
        writing = asyncio.create_task(self._write(context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([reading, writing, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not reading.done():
                reading.cancel()
                self._under_way.put_nowait(None)
                await writing
                raise UnavailableError(
                    "the server is going down; expected the caller to open another stream"
                )
            if reading.done():
                reading.result()
            await writing
        finally:
            left: list[asyncio.Task[Any]] = [reading, writing, stopping]
            while not self._under_way.empty():
                task = self._under_way.get_nowait()
                if task is not None:
                    left.append(task)
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, context: Any) -> None:
        while True:
            await self._room.acquire()
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await context.read()
            except TimeoutError:
                raise ExpiredError(
                    f"no request for {self._idle_s:g} seconds; expected one at least that often"
                ) from None
            if message is grpc.aio.EOF:
                self._under_way.put_nowait(None)
                return
            self._under_way.put_nowait(asyncio.create_task(self._respond([message])))
            del message  # not held until the next one comes

    async def _write(self, context: Any) -> None:
        while (task := await self._under_way.get()) is not None:
            response = await task
            try:
                async with asyncio.timeout(self._idle_s):
                    await context.write(response)
            except TimeoutError:
                raise OverloadedError(
                    f"no answer was read for {self._idle_s:g} seconds; expected a reader that "
                    "keeps up with what it asks",
                    1.0,
                ) from None
            self._room.release()

    async def _respond(self, messages: list[pb2.ModelInferRequest]) -> pb2.ModelStreamInferResponse:
        """Answers the one request of a list, which is taken out: the images are copies."""
        own_id = messages[0].id
        try:
            response = await self._answer(messages.pop())
        except Exception as error:
            if is_internal(error):
                _log.error(
                    "a request of ModelStreamInfer failed, request %s",
                    request_id.get(),
                    exc_info=error,
                )
            message = to_status(error, request_id.get()).message
            forget(error)
            return pb2.ModelStreamInferResponse(
                error_message=message, infer_response=pb2.ModelInferResponse(id=own_id)
            )
        response.parameters["triton_final_response"].bool_param = True
        return pb2.ModelStreamInferResponse(infer_response=response)
