"""One stream of requests: several are in flight at a time, and responses keep their order.

It knows messages and order; a function handles each request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc.aio

from limelens.inference import inference_service_pb2 as pb2
from limelens.serve.call_context import current_call
from limelens.serve.errors import UnavailableError
from limelens.serve.rpc.transport.message_io import read_within, write_within
from limelens.serve.status import forget, is_internal, to_status

IN_FLIGHT: Final = 16
"""Limit on a stream's requests in flight and unread responses; at the limit it reads no more."""
_Context = grpc.aio.ServicerContext[Any, Any]
_log = logging.getLogger(__name__)

Respond = Callable[[pb2.ModelInferRequest], Awaitable[pb2.ModelInferResponse]]


class RequestStream:
    """One stream from its first request to its end.

    Args:
        max_in_flight: Limit on requests in flight, at most `IN_FLIGHT`; None is `IN_FLIGHT`.
    """

    def __init__(
        self, respond: Respond, *, idle_s: float, max_in_flight: int | None = None
    ) -> None:
        self._respond_to = respond
        self._idle_s = idle_s
        self._room = asyncio.Semaphore(min(max_in_flight or IN_FLIGHT, IN_FLIGHT))
        # None marks the end.
        self._in_flight: asyncio.Queue[asyncio.Task[pb2.ModelStreamInferResponse] | None] = (
            asyncio.Queue()
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends the stream after the requests in flight: the server is going down."""
        self._stopping.set()

    async def run(self, context: _Context) -> None:
        """Reads requests and writes responses until the client ends the stream; as `Camera.run`."""
        # Sent apart from the first response for the reason given in `Camera.run`.
        await context.send_initial_metadata(())
        reading = asyncio.create_task(self._read(context))
        writing = asyncio.create_task(self._write(context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([reading, writing, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not reading.done():
                reading.cancel()
                self._in_flight.put_nowait(None)
                await writing
                raise UnavailableError(
                    "the server is going down; expected the client to open another stream"
                )
            if reading.done():
                reading.result()
            await writing
        finally:
            left: list[asyncio.Task[Any]] = [reading, writing, stopping]
            while not self._in_flight.empty():
                task = self._in_flight.get_nowait()
                if task is not None:
                    left.append(task)
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, context: _Context) -> None:
        while True:
            await self._room.acquire()
            message = await read_within(context, self._idle_s, "request")
            if message is grpc.aio.EOF:
                self._in_flight.put_nowait(None)
                return
            self._in_flight.put_nowait(asyncio.create_task(self._respond([message])))
            del message  # or it would be held until the next one comes

    async def _write(self, context: _Context) -> None:
        while (task := await self._in_flight.get()) is not None:
            await write_within(context, await task, self._idle_s)
            self._room.release()

    async def _respond(self, messages: list[pb2.ModelInferRequest]) -> pb2.ModelStreamInferResponse:
        """Answers the one request of a list; taking it out frees it, since images are copies."""
        own_id = messages[0].id
        try:
            response = await self._respond_to(messages.pop())
        except Exception as error:
            call = current_call.get()
            request_id = "" if call is None else call.request_id
            if is_internal(error):
                _log.error(
                    "a request of ModelStreamInfer failed, request %s", request_id, exc_info=error
                )
            message = to_status(error, request_id).message
            forget(error)
            return pb2.ModelStreamInferResponse(
                error_message=message, infer_response=pb2.ModelInferResponse(id=own_id)
            )
        response.parameters["triton_final_response"].bool_param = True
        return pb2.ModelStreamInferResponse(infer_response=response)
