"""What both clients do, written once: requests, batches, errors.

It awaits everything that may take time through a `Transport`, and knows neither threads nor event
loops. `AsyncClient` runs it on asyncio; `Client` runs it in the caller's thread.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
)
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Literal, Unpack, overload

import grpc

from limelens.serve.client.bulk import (
    AT_ONCE,
    BATCH_SIZE,
    Batch,
    BatchResult,
    OnError,
    batches,
    classify_batch,
    merged,
    partial,
)
from limelens.serve.client.channels import Channel, Channels
from limelens.serve.client.connection import Connection
from limelens.serve.client.feeding import Feed
from limelens.serve.client.frame_stream import FrameStream
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
    several,
    stream_config,
)
from limelens.serve.client.responses import (
    classification,
    embeddings,
    explanation_update,
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
from limelens.serve.client.transport import Transport
from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    PermissionDeniedError,
    UnavailableError,
)
from limelens.serve.status import from_call
from limelens.v1 import classifier_service_pb2 as service_pb2

_CONNECT_S: Final = 10.0
"""How long another connection may take to open."""


class Calls:
    """The calls of `ClassifierService` over a connection; the transport waits for them."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._connection, self._transport = connection, transport
        connection.credentials  # noqa: B018  (an unreadable file fails now, not at the first call)
        self._max_images: dict[tuple[str, int], int] = {}
        self._channels = Channels(
            connection.max_connections,
            lambda: transport.open(connection),
            lambda channel: transport.start(self._connect, channel),
        )

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for channel in self._channels.close():
            await self._transport.close(channel)

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
        """Classifies one image or several; files of many images are read one batch at a time.

        Args:
            images: Paths, files' bytes or arrays, one or any number.
            on_error: `return` puts an `ImageFailure` in the place of an image that cannot be
                used, and classifies the others; `raise` raises its error.
            arguments: Model, region, threshold and more; see `ClassifyArguments`. The deadline
                holds for each request; many images need several.

        Returns:
            The predictions, in the order of the images.

        Raises:
            InvalidRequestError: An image or a parameter cannot be used; the error names it.
            NotFoundError: There is no such model or version.
            OverloadedError: The server is busy, even after trying again.
            ExpiredError: The deadline passed.
            UnavailableError: No server answers there.
            ServerError: The server failed.
            OSError: A file cannot be read.
        """
        inputs = several(images)
        if on_error == "raise":
            first = list(itertools.islice(inputs, BATCH_SIZE + 1))
            if len(first) <= BATCH_SIZE:
                try:
                    request = await self._transport.in_thread(classify_request, first, **arguments)
                    return classification(await self._call("Classify", request, arguments))
                except InvalidRequestError as error:
                    if error.field != "images" or len(first) < 2:
                        raise  # else they are too many for this server
            inputs = itertools.chain(first, inputs)
        patience_s = self._connection.timeout_of(arguments)
        async with aclosing(
            self._batch_results(inputs, on_error, arguments, patience_s=patience_s)
        ) as results:
            parts = [part async for part in results]
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
        """Classifies any number of images and yields each result as soon as its turn comes.

        Memory holds only the images under way. While the server is busy they wait, for ten
        minutes at most. Closing the generator sends no more.

        Args:
            images: Paths, files' bytes or arrays.
            on_error: As for `classify`.
            batch_size: Images in one request; fewer if the server takes fewer.
            at_once: Requests under way at a time.
            arguments: As for `classify`.

        Yields:
            One result for each image, in their order.

        Raises:
            LimelensError: As `classify`, if no image is the cause or failures are raised.
            OSError: Likewise.
        """
        async with aclosing(
            self._batch_results(
                several(images), on_error, arguments, batch_size=batch_size, at_once=at_once
            )
        ) as results:
            async for part in results:
                for result in part.results:
                    yield result

    async def embed(
        self, images: ImageInput | Iterable[ImageInput], **arguments: Unpack[EmbedArguments]
    ) -> Embeddings:
        """Feature vectors of one image or several, for finding similar images.

        Args:
            images: Paths, files' bytes or arrays, one or several, in one request.
            arguments: See `EmbedArguments`.

        Raises:
            LimelensError, OSError: As `classify`.
        """
        request = await self._transport.in_thread(embed_request, images, **arguments)
        return embeddings(await self._call("Embed", request, arguments))

    async def explain(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> ServedExplanation:
        """Explains the model's prediction for one image.

        Args:
            image: A path, a file's bytes or an array.
            arguments: See `ExplainArguments`.

        Raises:
            LimelensError, OSError: As `classify`.
        """
        request = await self._transport.in_thread(explain_request, image, **arguments)
        return served_explanation(await self._call("Explain", request, arguments))

    async def explain_stream(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> AsyncGenerator[ExplanationUpdate, None]:
        """The same as `explain` with progress: explanations from more and more samples.

        Each can be used; the last is what `explain` gives for the same arguments and seed. A slow
        reader gets fewer of them. Closing the generator stops the work.
        """
        request = await self._transport.in_thread(explain_request, image, **arguments)
        async with aclosing(self.explanation_updates(request, arguments)) as updates:
            async for update in updates:
                yield update

    async def explanation_updates(
        self, request: service_pb2.ExplainRequest, arguments: CallArguments
    ) -> AsyncGenerator[ExplanationUpdate, None]:
        """The same for a request that is already built."""
        metadata = await self._metadata(arguments)
        async with self._stub() as stub:
            call = stub.ExplainStream(
                request, timeout=self._connection.timeout_of(arguments), metadata=metadata
            )
            try:
                async with aclosing(self._transport.responses(call)) as responses:
                    async for response in responses:
                        yield explanation_update(response)
            finally:
                call.cancel()

    def stream(
        self,
        frames: AsyncIterable[Frame | ImageInput] | Iterable[Frame | ImageInput],
        *,
        drop_old: bool = True,
        reconnect: bool = False,
        wait_for_ready: bool = True,
        request_id: str | None = None,
        **arguments: Unpack[StreamArguments],
    ) -> AsyncGenerator[FrameAnswer, None]:
        """Classifies a camera's frames as they come.

        `frames` is read in a thread. At most one frame waits to be sent. Closing the generator
        ends the call.

        Args:
            frames: Frames, or images that are numbered from 0.
            drop_old: For a camera: a newer frame replaces an older one that waits, here or on
                the server; the older one gets the status superseded. False is for files: the next
                frame is taken once the one before has its answer, and none is dropped.
            reconnect: Whether to open the stream again for the next frame if the server goes
                down, is full, or ended the stream because no frame came for long. Frames in flight
                get the status lost; without `drop_old` they are sent again. The smoothed decision
                starts anew. With `max_decision_age_s` a camera's stream says at once that the
                server is lost, also without a frame in flight: `FrameStatus.SERVER_LOST`.
            wait_for_ready: Whether to wait, with a frame in hand, for a server that is not there
                yet; False raises `UnavailableError` instead.
            request_id: As for `classify`.
            arguments: Camera, model, smoothing and more; see `StreamArguments`.

        Yields:
            One answer for each frame, as soon as it is known. A reader who is far behind gets only
            the last 256 answers for frames that were never sent.

        Raises:
            LimelensError: As `classify`; a frame that cannot be read is an answer, not an error.
            OSError: A frame's file cannot be read.
            Exception: The error that `frames` raises, after the answers to earlier frames.
        """
        named: CallArguments = {"request_id": request_id}
        stream = FrameStream(
            self._transport,
            self._stub,
            lambda: self._metadata(named),
            Feed(drop_old, tells_loss=drop_old and arguments.get("max_decision_age_s", 0.0) > 0),
            self._transport.signal(),
            stream_config(**arguments),
            wait_for_ready,
        )
        return stream.answers(frames, reconnect=reconnect)

    async def models(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> tuple[ModelInfo, ...]:
        """What is served, by name and version; without cards. Raises as `classify`."""
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        response = await self._call("ListModels", service_pb2.ListModelsRequest(), arguments)
        return tuple(model_info(model) for model in response.models)

    async def model(
        self,
        name: str = "",
        version: int = 0,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> ModelInfo:
        """One model with its card; raises as `classify`.

        Args:
            name: Empty means the only one served.
            version: 0 means the newest.
            timeout_s: Deadline; None is the client's.
            request_id: As for `classify`.
        """
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        request = service_pb2.GetModelRequest(model=name, version=version)
        return model_info((await self._call("GetModel", request, arguments)).model)

    async def _connect(self, channel: Channel) -> None:
        is_connected = await self._transport.is_ready(channel, _CONNECT_S)
        if self._channels.connected(channel, is_connected):
            await self._transport.close(channel)

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[Any]:
        """The stub for one call; gRPC's errors become limelens' own."""
        channel = self._channels.take()
        is_lost = False
        try:
            yield channel.stub
        except (grpc.RpcError, asyncio.CancelledError) as error:
            own = _own_error(error)
            if own is None:
                raise
            is_lost = isinstance(own, UnavailableError)
            raise own from None
        finally:
            if self._channels.give_back(channel, is_lost=is_lost):
                await self._transport.close(channel)

    async def _call(self, name: str, request: Any, arguments: CallArguments) -> Any:
        metadata = await self._metadata(arguments)
        async with self._stub() as stub:
            return await self._transport.unary(
                getattr(stub, name),
                request,
                timeout=self._connection.timeout_of(arguments),
                metadata=metadata,
            )

    async def _metadata(self, arguments: CallArguments) -> Any:
        token: Any = self._connection.token
        if callable(token):
            token = await self._transport.token(token)
        return self._connection.metadata(token, arguments.get("request_id"))

    async def _batch_results(
        self,
        images: Iterator[ImageInput],
        on_error: OnError,
        arguments: ClassifyArguments,
        *,
        batch_size: int = BATCH_SIZE,
        at_once: int = AT_ONCE,
        patience_s: float | None = None,
    ) -> AsyncGenerator[BatchResult, None]:
        """Classifies images batch by batch, several under way."""
        for name, value in (("batch_size", batch_size), ("at_once", at_once)):
            if value < 1:
                raise InvalidRequestError(name, f"{value}; expected 1 or more")
        size = min(batch_size, await self._most_images(arguments))
        under_way: deque[Any] = deque()

        async def classify(batch: Batch) -> BatchResult:
            return await classify_batch(
                batch,
                lambda request: self._call("Classify", request, arguments),
                self._transport.in_thread,
                self._transport.sleep,
            )

        try:
            for batch in batches(images, size, arguments, on_error, patience_s):
                under_way.append(self._transport.start(classify, batch))
                if len(under_way) == at_once:
                    yield await self._transport.result(under_way[0])
                    under_way.popleft()
            while under_way:
                yield await self._transport.result(under_way[0])
                under_way.popleft()
        finally:
            await self._transport.stop(under_way, may_hang=False)

    async def _most_images(self, arguments: ClassifyArguments) -> int:
        """How many images the server takes in one request; asked once for each model."""
        key = arguments.get("model", ""), arguments.get("version", 0)
        if key not in self._max_images:
            request = service_pb2.GetModelRequest(model=key[0], version=key[1])
            try:
                response = await self._call("GetModel", request, arguments)
                self._max_images[key] = response.model.max_images or 1
            except PermissionDeniedError:  # a caller who may classify need not see the models
                self._max_images[key] = BATCH_SIZE
        return self._max_images[key]


def _own_error(error: grpc.RpcError | asyncio.CancelledError) -> LimelensError | None:
    """The error of limelens for what gRPC raised; None if the caller cancelled its task."""
    if isinstance(error, grpc.RpcError):
        return from_call(error)
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return None
    # By gRPC: the channel was closed, and nobody cancelled this task.
    return UnavailableError("the client was closed before the server answered")
