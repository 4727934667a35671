"""The client for asyncio.

The same calls as `Client` by the same names; only how they wait differs. Files are read, and
images encoded, in threads, so that the event loop is never held up.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, Unpack, overload

import grpc
import grpc.aio

from limelens.serve.client.arguments import check_arguments
from limelens.serve.client.bulk import (
    AT_ONCE,
    BATCH_SIZE,
    Job,
    OnError,
    Part,
    advance,
    answering,
    check_sizes,
    jobs,
    merged,
    partial,
)
from limelens.serve.client.channels import CONNECT_S, Channel, Channels
from limelens.serve.client.connection import ConnectArguments, Connection
from limelens.serve.client.feeding import PAUSE_S, Feed
from limelens.serve.client.requests import (
    CallArguments,
    ClassifyArguments,
    EmbedArguments,
    ExplainArguments,
    Frame,
    ImageInput,
    StreamArguments,
    classify_request,
    embed_request,
    explain_request,
    frame_request,
    several,
    stream_config,
)
from limelens.serve.client.responses import (
    classification,
    embeddings,
    explanation_update,
    frame_answer,
    model_info,
    served_explanation,
)
from limelens.serve.client.results import (
    Classification,
    Embeddings,
    ExplanationUpdate,
    FrameAnswer,
    ImageFailure,
    ModelInfo,
    PartialClassification,
    ServedExplanation,
)
from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    PermissionDeniedError,
    ServerError,
    UnavailableError,
)
from limelens.serve.status import from_call
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

_T = TypeVar("_T")
_END: Final = object()
_MOST_S_FOR_A_STATUS: Final = 1.0


class AsyncClient:
    """Connections to a limelens server for one event loop; see `Client`, which it equals.

    Cancelling a task cancels its call, on the server too.

        async with AsyncClient("127.0.0.1:8500") as client:
            print((await client.classify(["door.jpg"]))[0].label)

    Args:
        address: As for `Client`.
        settings: As for `Client`; the function that gives a token may be asynchronous, a plain
            one is called in a thread.

    Raises:
        InvalidRequestError: As `Client`.
        OSError: As `Client`.
    """

    def __init__(self, address: str, **settings: Unpack[ConnectArguments]) -> None:
        check_arguments(type(self).__name__, settings, ConnectArguments.__optional_keys__)
        self._connection = Connection(address, **settings)
        self._credentials = self._connection.credentials()
        self._max_images: dict[tuple[str, int], int] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._channels = Channels(self._connection.max_connections, self._open_one, self._connect)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for task in tuple(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for one in self._channels.close():
            await one.channel.close()

    @overload
    async def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["raise"] = "raise",
        **arguments: Unpack[ClassifyArguments],
    ) -> Classification: ...
    @overload
    async def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["return"],
        **arguments: Unpack[ClassifyArguments],
    ) -> PartialClassification: ...
    async def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        **arguments: Unpack[ClassifyArguments],
    ) -> Classification | PartialClassification:
        """Classifies one image or several; see `Client.classify`."""
        inputs = several(images)
        if on_error == "raise":
            first = list(itertools.islice(inputs, BATCH_SIZE + 1))
            if len(first) <= BATCH_SIZE:
                try:
                    request = await asyncio.to_thread(classify_request, first, **arguments)
                    return classification(await self._call("Classify", request, arguments))
                except InvalidRequestError as error:
                    if error.field != "images" or len(first) < 2:
                        raise  # else they are too many for this server
            inputs = itertools.chain(first, inputs)
        patience_s = self._connection.timeout_of(arguments)
        async with aclosing(
            self._parts(inputs, on_error, arguments, patience_s=patience_s)
        ) as answered:
            parts = [part async for part in answered]
        return merged(parts) if on_error == "raise" else partial(parts)

    async def classify_many(
        self,
        images: Iterable[ImageInput],
        *,
        on_error: OnError = "return",
        batch_size: int = BATCH_SIZE,
        at_once: int = AT_ONCE,
        **arguments: Unpack[ClassifyArguments],
    ) -> AsyncGenerator[Prediction | ImageFailure, None]:
        """Classifies any number of images, each told as soon as those before it are.

        See `Client.classify_many`.
        """
        inputs = several(images)
        async with aclosing(
            self._parts(inputs, on_error, arguments, batch_size=batch_size, at_once=at_once)
        ) as answered:
            async for part in answered:
                for result in part.results:
                    yield result

    async def embed(
        self, images: ImageInput | Iterable[ImageInput], **arguments: Unpack[EmbedArguments]
    ) -> Embeddings:
        """Feature vectors of one image or several; see `Client.embed`."""
        request = await asyncio.to_thread(embed_request, images, **arguments)
        return embeddings(await self._call("Embed", request, arguments))

    async def explain(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> ServedExplanation:
        """Explains what the model says of one image; see `Client.explain`."""
        request = await asyncio.to_thread(explain_request, image, **arguments)
        return served_explanation(await self._call("Explain", request, arguments))

    async def explain_stream(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> AsyncGenerator[ExplanationUpdate, None]:
        """Explanations from more and more samples; see `Client.explain_stream`."""
        request = await asyncio.to_thread(explain_request, image, **arguments)
        metadata = await self._metadata(arguments)
        async with self._calling() as stub:
            call = stub.ExplainStream(
                request, timeout=self._connection.timeout_of(arguments), metadata=metadata
            )
            try:
                async for response in call:
                    yield explanation_update(response)
            finally:
                call.cancel()

    async def stream(
        self,
        frames: AsyncIterable[Frame | ImageInput] | Iterable[Frame | ImageInput],
        *,
        drop_old: bool = True,
        reconnect: bool = False,
        wait_for_ready: bool = True,
        request_id: str | None = None,
        **arguments: Unpack[StreamArguments],
    ) -> AsyncGenerator[FrameAnswer, None]:
        """Classifies a camera's frames as they come; see `Client.stream`.

        A plain iterable of frames is read in a thread, an asynchronous one in a task.
        """
        config = stream_config(**arguments)
        call_arguments: CallArguments = {"request_id": request_id}
        feed = Feed(drop_old)
        changed = _Changed()
        pulling = asyncio.create_task(_pull(frames, feed, changed))
        try:
            while True:
                ended = asyncio.Event()
                metadata = await self._metadata(call_arguments)
                failure: LimelensError | None = None
                try:
                    async with self._calling() as stub:
                        call = stub.ClassifyStream(
                            _messages(config, feed, changed, ended),
                            wait_for_ready=wait_for_ready,
                            metadata=metadata,
                        )
                        ending = _Ending(call)
                        try:
                            with _our_errors():
                                async for response in call:
                                    answers = feed.answered(frame_answer(response))
                                    changed.tell()
                                    for answer in answers:
                                        yield answer
                        except LimelensError as error:
                            failure = await ending.really(error)
                            if isinstance(failure, UnavailableError):
                                raise failure from None  # its connection counts as lost
                        finally:
                            call.cancel()
                            ended.set()
                            changed.tell()
                except UnavailableError as error:
                    failure = error
                pause_s = feed.pause_after(failure) if reconnect and failure else None
                for answer in feed.told():
                    yield answer
                if feed.error is not None:
                    raise feed.error
                if failure is not None and pause_s is None:
                    raise failure
                if pause_s is None:
                    return
                await asyncio.sleep(pause_s)
                await changed.until(lambda: feed.has_news)
                if feed.is_empty:
                    if feed.error is not None:
                        raise feed.error
                    return
        finally:
            feed.closed = True
            changed.tell()
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)

    async def models(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> tuple[ModelInfo, ...]:
        """What is served, by name and version; see `Client.models`."""
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        request = service_pb2.ListModelsRequest()
        response = await self._call("ListModels", request, arguments)
        return tuple(model_info(model) for model in response.models)

    async def model(
        self,
        name: str = "",
        version: int = 0,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> ModelInfo:
        """One model with its card; see `Client.model`."""
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        request = service_pb2.GetModelRequest(model=name, version=version)
        return model_info((await self._call("GetModel", request, arguments)).model)

    def _open_one(self) -> Channel:
        # Not before the first call: a channel belongs to the loop that runs when it is made.
        address, options = self._connection.address, self._connection.options()
        channel = (
            grpc.aio.insecure_channel(address, options)
            if self._credentials is None
            else grpc.aio.secure_channel(address, self._credentials, options)
        )
        return Channel(channel, service_grpc.ClassifierServiceStub(channel))  # type: ignore[no-untyped-call]

    def _connect(self, channel: Channel) -> None:
        """Has a further connection made, in a task of its own."""

        async def wait() -> None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await channel.channel.channel_ready()
                is_connected = True
            except TimeoutError:
                is_connected = False
            if self._channels.connected(channel, is_connected):
                await channel.channel.close()

        task = asyncio.create_task(wait())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[Any]:
        """The stub for one call, whose errors become limelens' own."""
        channel = self._channels.take()
        is_lost = False
        try:
            with _our_errors():
                yield channel.stub
        except UnavailableError:
            is_lost = True
            raise
        finally:
            if self._channels.give_back(channel, is_lost=is_lost):
                await channel.channel.close()

    async def _call(self, name: str, request: Any, arguments: CallArguments) -> Any:
        metadata = await self._metadata(arguments)
        async with self._calling() as stub:
            return await getattr(stub, name)(
                request, timeout=self._connection.timeout_of(arguments), metadata=metadata
            )

    async def _metadata(self, arguments: CallArguments) -> Any:
        token: Any = self._connection.token
        if callable(token):
            token = await asyncio.to_thread(self._connection.ask_token)
            if token is not None and not isinstance(token, str):
                token = await token
        return self._connection.metadata(token, arguments.get("request_id"))

    async def _parts(
        self,
        images: Iterator[ImageInput],
        on_error: OnError,
        arguments: ClassifyArguments,
        *,
        batch_size: int = BATCH_SIZE,
        at_once: int = AT_ONCE,
        patience_s: float | None = None,
    ) -> AsyncGenerator[Part, None]:
        """What becomes of images, request by request, several under way."""
        check_sizes(batch_size, at_once)
        size = min(batch_size, await self._most_images(arguments))
        waiting: deque[asyncio.Task[Part]] = deque()
        try:
            for job in jobs(images, size, arguments, on_error, patience_s):
                waiting.append(asyncio.create_task(self._part(job)))
                if len(waiting) == at_once:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _part(self, job: Job) -> Part:
        steps = answering(job)
        step = await asyncio.to_thread(advance, steps)
        while not isinstance(step, Part):
            if isinstance(step, float):
                await asyncio.sleep(step)
                step = advance(steps)
                continue
            try:
                response = await self._call("Classify", step, job.arguments)
            except LimelensError as error:
                step = advance(steps, error=error)
            else:
                step = advance(steps, response)
        return step

    async def _most_images(self, arguments: ClassifyArguments) -> int:
        """In one request, as the server says if it may; it is asked once for each model."""
        key = arguments.get("model", ""), arguments.get("version", 0)
        if key not in self._max_images:
            request = service_pb2.GetModelRequest(model=key[0], version=key[1])
            try:
                response = await self._call("GetModel", request, arguments)
                self._max_images[key] = response.model.max_images or 1
            except PermissionDeniedError:  # who may classify need not see the models
                self._max_images[key] = BATCH_SIZE
        return self._max_images[key]


class _Ending:
    """What the server said last.

    Where a frame is on its way meanwhile, grpc.aio lets the failure of that write take the place
    of what the server said (grpc/grpc#36066): most refusals of a stream would come out as an
    internal error. Both are told to who asks to be told of the end.
    """

    def __init__(self, call: Any) -> None:
        self._told: list[_Status] = []
        self._more = asyncio.Event()
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        parts = call.code(), call.details(), call.trailing_metadata()
        self._told.append(_Status(*map(_at_once, parts)))
        self._more.set()

    async def really(self, error: LimelensError) -> LimelensError | None:
        """How the call failed; None where it did not.

        Args:
            error: What was raised.
        """
        if not _is_of_a_write(error):
            return error
        if all(_is_of_a_write(from_call(one)) for one in self._told):
            self._more.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOST_S_FOR_A_STATUS):
                    await self._more.wait()
        for one in self._told:
            if not _is_of_a_write(found := from_call(one)):
                return None if one.is_ok else found
        return error


class _Status(grpc.RpcError):
    """The end of a call, as it was at one moment."""

    def __init__(self, code: Any, details: str, trailing: Any) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    @property
    def is_ok(self) -> bool:
        return bool(self._code.name == "OK")

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


def _is_of_a_write(error: LimelensError) -> bool:
    return isinstance(error, ServerError) and str(error) == "Internal error from Core"


def _at_once(coroutine: Any) -> Any:
    """What a coroutine gives that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("a call that is over has no status")


class _Changed:
    """Wakes whoever waits for the feed, within one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()

    async def until(self, holds: Any) -> None:
        while not holds():
            # Who waited before was woken already by whatever had set it.
            self._event.clear()
            await self._event.wait()


@contextmanager
def _our_errors() -> Iterator[None]:
    """What a call of gRPC's raises as an error of limelens."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_call(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # By gRPC: the channel was closed, and nobody meant this task.
        raise UnavailableError("the client was closed before the server answered") from None


async def _pull(
    frames: AsyncIterable[Frame | ImageInput] | Iterable[Frame | ImageInput],
    feed: Feed,
    changed: _Changed,
) -> None:
    """Reads the source, as far as its frames are wanted."""
    if not isinstance(frames, AsyncIterable):
        async with aclosing(_in_a_thread(frames)) as read:
            await _pull(read, feed, changed)
        return
    failure: Exception | None = None
    try:
        source = aiter(frames)
        while True:
            await changed.until(lambda: feed.closed or feed.wants)
            if feed.closed:
                return
            try:
                frame = await anext(source)
            except StopAsyncIteration:
                return
            overtook = feed.put(frame)
            changed.tell()
            # A source that never waits must not keep the loop from sending.
            await asyncio.sleep(PAUSE_S if overtook else 0)
    except Exception as error:
        failure = error
    finally:
        feed.end(failure)
        changed.tell()


async def _in_a_thread(items: Iterable[_T]) -> AsyncGenerator[_T, None]:
    """Reads an iterable that blocks.

    The thread is one that nobody waits for at the end of the process: a camera that gives
    nothing cannot be interrupted.
    """
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()

    def settle(future: asyncio.Future[Any], item: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(item)
        else:
            future.set_exception(error)

    def read() -> None:
        source: Iterator[_T] | None = None
        while (future := wanted.get()) is not None:
            item: Any = _END
            failure: Exception | None = None
            try:
                source = source or iter(items)
                item = next(source, _END)
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, future, item, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    threading.Thread(target=read, name="camera-frames", daemon=True).start()
    try:
        while True:
            future = loop.create_future()
            wanted.put(future)
            if (item := await future) is _END:
                return
            yield item
    finally:
        wanted.put(None)


async def _messages(
    config: service_pb2.ClassifyStreamRequest, feed: Feed, changed: _Changed, ended: asyncio.Event
) -> AsyncGenerator[service_pb2.ClassifyStreamRequest, None]:
    """What one call sends; gRPC waits until each is on its way."""

    def can_go_on() -> bool:
        return feed.closed or ended.is_set() or feed.has_next or feed.is_empty

    yield config
    while True:
        await changed.until(can_go_on)
        if feed.closed or ended.is_set() or not feed.has_next:
            return
        frame = feed.take()
        changed.tell()
        try:
            message = await asyncio.to_thread(frame_request, frame)
        except Exception as error:  # gRPC would end the stream and hide why
            feed.end(error)
            return
        yield message
