"""The client for plain code and threads.

It knows one channel of gRPC's and what it may raise. What is asked, and what an answer means, it
shares with its asynchronous twin.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import grpc

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
    UnavailableError,
)
from limelens.serve.status import from_call
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc


class Client:
    """Connections to a limelens server; may be shared by threads.

    One caller has one connection; calls that are under way at once are spread over several. Those
    that fail because the server is busy or not there yet are tried again a few times, within
    their deadline.

        with Client("127.0.0.1:8500") as client:
            print(client.classify(["door.jpg"])[0].label)

    Args:
        address: `HOST:PORT`, or another of gRPC's names; see `Connection`.
        settings: TLS, token, deadline, retries; see `Connection`.

    Raises:
        InvalidRequestError: As `Connection`.
        OSError: A certificate cannot be read.
    """

    _stub: Any
    """Of a client over something else than connections."""

    def __init__(self, address: str, **settings: Unpack[ConnectArguments]) -> None:
        check_arguments(type(self).__name__, settings, ConnectArguments.__optional_keys__)
        self._connection = connection = Connection(address, **settings)
        self._max_images: dict[tuple[str, int], int] = {}
        credentials, options = connection.credentials(), connection.options()

        def open_one() -> Channel:
            channel = (
                grpc.insecure_channel(address, options)
                if credentials is None
                else grpc.secure_channel(address, credentials, options)
            )
            return Channel(channel, service_grpc.ClassifierServiceStub(channel))  # type: ignore[no-untyped-call]

        self._connecting: set[Any] = set()
        self._channels = Channels(connection.max_connections, open_one, self._connect)

    @classmethod
    def over(cls, stub: Any) -> Self:
        """A client that asks something else than a gRPC channel.

        Args:
            stub: Has the unary methods of `ClassifierService` and `ExplainStream` by their names,
                each called with a request, `timeout` in seconds and `metadata`.
        """
        client = cls.__new__(cls)
        client._connection = Connection("", timeout_s=None)  # nothing is dialled
        client._max_images = {}
        client._stub = stub
        client._connecting = set()
        client._channels = Channels(1, lambda: Channel(None, stub), client._connect)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for one in self._channels.close():
            _close(one)
        for future in tuple(self._connecting):
            self._cancel(future)

    @overload
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["raise"] = "raise",
        **arguments: Unpack[ClassifyArguments],
    ) -> Classification: ...
    @overload
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: Literal["return"],
        **arguments: Unpack[ClassifyArguments],
    ) -> PartialClassification: ...
    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        **arguments: Unpack[ClassifyArguments],
    ) -> Classification | PartialClassification:
        """Classifies one image or several; of many, files are read as their turn comes.

        Args:
            images: Paths, files' bytes or arrays, one or any number.
            on_error: `return` puts a `ImageFailure` in the place of an image that cannot be
                used, and answers the others; `raise` raises what is wrong with it.
            arguments: Model, region, threshold and more; see `ClassifyArguments`. The deadline
                is that of each request, of which many inputs need several.

        Returns:
            The predictions, in the order of the inputs.

        Raises:
            InvalidRequestError: An image or a parameter cannot be used; it names which.
            NotFoundError: There is no such model or version.
            OverloadedError: The server is busy, even after trying again.
            ExpiredError: The deadline passed.
            UnavailableError: Nobody answers there.
            ServerError: The server failed.
            OSError: A file cannot be read.
        """
        inputs = several(images)
        if on_error == "raise":
            first = list(itertools.islice(inputs, BATCH_SIZE + 1))
            if len(first) <= BATCH_SIZE:
                try:
                    request = classify_request(first, **arguments)
                    return classification(self._call("Classify", request, arguments))
                except InvalidRequestError as error:
                    if error.field != "images" or len(first) < 2:
                        raise  # else they are too many for this server
            inputs = itertools.chain(first, inputs)
        patience_s = self._connection.timeout_of(arguments)
        parts = list(self._parts(inputs, on_error, arguments, patience_s=patience_s))
        return merged(parts) if on_error == "raise" else partial(parts)

    def classify_many(
        self,
        images: Iterable[ImageInput],
        *,
        on_error: OnError = "return",
        batch_size: int = BATCH_SIZE,
        at_once: int = AT_ONCE,
        **arguments: Unpack[ClassifyArguments],
    ) -> Generator[Prediction | ImageFailure, None, None]:
        """Classifies any number of images, each told as soon as those before it are.

        Memory holds the inputs under way and no others. Where the server is busy they wait,
        for ten minutes at most. Closing it sends no more.

        Args:
            images: Paths, files' bytes or arrays.
            on_error: As for `classify`.
            batch_size: Images in one request; fewer where the server takes fewer.
            at_once: Requests under way at a time.
            arguments: As for `classify`.

        Yields:
            One for each image, in their order.

        Raises:
            LimelensError: As `classify`, where no image is to blame or failures are raised.
            OSError: Likewise.
        """
        for part in self._parts(
            several(images), on_error, arguments, batch_size=batch_size, at_once=at_once
        ):
            yield from part.results

    def embed(
        self, images: ImageInput | Iterable[ImageInput], **arguments: Unpack[EmbedArguments]
    ) -> Embeddings:
        """Feature vectors of one image or several, by which similar images are found.

        Args:
            images: Paths, files' bytes or arrays, one or several, in one request.
            arguments: See `EmbedArguments`.

        Returns:
            One row for each image, in their order.

        Raises:
            LimelensError: As `classify`.
            OSError: A file cannot be read.
        """
        request = embed_request(images, **arguments)
        return embeddings(self._call("Embed", request, arguments))

    def explain(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> ServedExplanation:
        """Explains what the model says of one image.

        Args:
            image: A path, a file's bytes or an array.
            arguments: See `ExplainArguments`.

        Raises:
            LimelensError: As `classify`.
            OSError: The file cannot be read.
        """
        request = explain_request(image, **arguments)
        return served_explanation(self._call("Explain", request, arguments))

    def explain_stream(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> Generator[ExplanationUpdate, None, None]:
        """The same with progress: explanations from more and more samples.

        Each can be used; the last is what `explain` gives for the same arguments and seed. A slow
        reader gets fewer of them. Closing it stops the work.

        Args:
            image: As for `explain`.
            arguments: As for `explain`.

        Raises:
            LimelensError: As `classify`.
            OSError: The file cannot be read.
        """
        return self._updates(explain_request(image, **arguments), arguments)

    def stream(
        self,
        frames: Iterable[Frame | ImageInput],
        *,
        drop_old: bool = True,
        reconnect: bool = False,
        wait_for_ready: bool = True,
        request_id: str | None = None,
        **arguments: Unpack[StreamArguments],
    ) -> Generator[FrameAnswer, None, None]:
        """Classifies a camera's frames as they come.

        `frames` is read in a thread. At most one frame is held that was not sent. Closing it ends
        the call.

        Args:
            frames: Frames, or images that are numbered from 0.
            drop_old: For a camera: a newer frame takes the place of an older that waits, here or
                on the server, which is answered as superseded. False is for files: the next
                frame is taken once the one before is answered, and none is dropped.
            reconnect: Whether a stream whose server goes down, is full, or ended it because no
                frame came for long, is opened again for the next frame. Frames that were under
                way are answered as lost; without `drop_old` they are sent again. The smoothed
                decision starts anew.
            wait_for_ready: Whether a server that is not there yet is waited for, with a frame
                in hand; False raises `UnavailableError` instead.
            request_id: As for `classify`.
            arguments: Camera, model, smoothing and more; see `StreamArguments`.

        Yields:
            One answer for each frame, as soon as it is known. Of frames that were given up before
            they were sent, a reader who is far behind gets the last 256.

        Raises:
            LimelensError: As `classify`; a frame that cannot be read is an answer, not an error.
            OSError: A frame's file cannot be read.
            Exception: Whatever `frames` raises, after the answers to the frames before.
        """
        config = stream_config(**arguments)
        call: CallArguments = {"request_id": request_id}
        return self._frame_answers(Feed(drop_old), frames, config, call, reconnect, wait_for_ready)

    def models(
        self, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> tuple[ModelInfo, ...]:
        """What is served, by name and version; without cards.

        Args:
            timeout_s: Deadline; None is the client's.
            request_id: As for `classify`.

        Raises:
            LimelensError: As `classify`.
        """
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        request = service_pb2.ListModelsRequest()
        response = self._call("ListModels", request, arguments)
        return tuple(model_info(model) for model in response.models)

    def model(
        self,
        name: str = "",
        version: int = 0,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> ModelInfo:
        """One model with its card.

        Args:
            name: Empty means the only one served.
            version: 0 means the newest.
            timeout_s: Deadline; None is the client's.
            request_id: As for `classify`.

        Raises:
            LimelensError: As `classify`.
        """
        arguments: CallArguments = {"timeout_s": timeout_s, "request_id": request_id}
        request = service_pb2.GetModelRequest(model=name, version=version)
        return model_info(self._call("GetModel", request, arguments).model)

    def _call(self, name: str, request: Any, arguments: CallArguments) -> Any:
        metadata = self._metadata(arguments)
        with self._calling() as stub:
            return getattr(stub, name)(
                request, timeout=self._connection.timeout_of(arguments), metadata=metadata
            )

    @contextmanager
    def _calling(self) -> Iterator[Any]:
        """The stub for one call, whose errors become limelens' own."""
        channel = self._channels.take()
        is_lost = False
        try:
            yield channel.stub
        except grpc.RpcError as error:
            found = from_call(error)
            is_lost = isinstance(found, UnavailableError)
            raise found from None
        finally:
            if self._channels.give_back(channel, is_lost=is_lost):
                _close(channel)

    def _connect(self, channel: Channel) -> None:
        """Has a further connection made, and waits for it in a thread of its own."""
        try:
            future = grpc.channel_ready_future(channel.channel)
        except ValueError:  # the client was closed meanwhile
            return
        self._connecting.add(future)

        def wait() -> None:
            is_connected = False
            with suppress(grpc.FutureTimeoutError, grpc.FutureCancelledError):
                future.result(timeout=CONNECT_S)
                is_connected = True
            self._cancel(future)  # where it took too long; else nothing happens
            if self._channels.connected(channel, is_connected):
                _close(channel)

        threading.Thread(target=wait, name="limelens-connect", daemon=True).start()

    def _cancel(self, future: Any) -> None:
        """Has a connection not waited for any more; gRPC allows that once."""
        try:
            self._connecting.remove(future)
        except KeyError:  # done already, by the other of two threads
            return
        future.cancel()

    def _metadata(self, arguments: CallArguments) -> Any:
        token = self._connection.ask_token_now()
        return self._connection.metadata(token, arguments.get("request_id"))

    def _parts(
        self,
        images: Iterator[ImageInput],
        on_error: OnError,
        arguments: ClassifyArguments,
        *,
        batch_size: int = BATCH_SIZE,
        at_once: int = AT_ONCE,
        patience_s: float | None = None,
    ) -> Generator[Part, None, None]:
        """What becomes of images, request by request, several under way."""
        check_sizes(batch_size, at_once)
        size = min(batch_size, self._most_images(arguments))
        pool = ThreadPoolExecutor(at_once, "limelens-client")
        waiting: deque[Future[Part]] = deque()
        try:
            for job in jobs(images, size, arguments, on_error, patience_s):
                waiting.append(pool.submit(self._part, job))
                if len(waiting) == at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Stopped in the middle: what has not begun never does.
            pool.shutdown(cancel_futures=True)

    def _part(self, job: Job) -> Part:
        steps = answering(job)
        step = advance(steps)
        while not isinstance(step, Part):
            if isinstance(step, float):
                time.sleep(step)
                step = advance(steps)
                continue
            try:
                response = self._call("Classify", step, job.arguments)
            except LimelensError as error:
                step = advance(steps, error=error)
            else:
                step = advance(steps, response)
        return step

    def _most_images(self, arguments: ClassifyArguments) -> int:
        """In one request, as the server says if it may; it is asked once for each model."""
        key = arguments.get("model", ""), arguments.get("version", 0)
        if key not in self._max_images:
            request = service_pb2.GetModelRequest(model=key[0], version=key[1])
            try:
                response = self._call("GetModel", request, arguments)
                self._max_images[key] = response.model.max_images or 1
            except PermissionDeniedError:  # who may classify need not see the models
                self._max_images[key] = BATCH_SIZE
        return self._max_images[key]

    def _updates(
        self, request: service_pb2.ExplainRequest, arguments: CallArguments
    ) -> Generator[ExplanationUpdate, None, None]:
        metadata = self._metadata(arguments)
        with self._calling() as stub:
            call = stub.ExplainStream(
                request, timeout=self._connection.timeout_of(arguments), metadata=metadata
            )
            try:
                for response in call:
                    yield explanation_update(response)
            finally:
                call.cancel()

    def _frame_answers(
        self,
        feed: Feed,
        frames: Iterable[Frame | ImageInput],
        config: service_pb2.ClassifyStreamRequest,
        arguments: CallArguments,
        reconnect: bool,
        wait_for_ready: bool,
    ) -> Generator[FrameAnswer, None, None]:
        changed = threading.Condition()
        threading.Thread(
            target=_pull, args=(frames, feed, changed), name="camera-frames", daemon=True
        ).start()
        try:
            while True:
                ended = threading.Event()
                metadata = self._metadata(arguments)
                failure: LimelensError | None = None
                try:
                    with self._calling() as stub:
                        call = stub.ClassifyStream(
                            _messages(config, feed, changed, ended),
                            wait_for_ready=wait_for_ready,
                            metadata=metadata,
                        )
                        try:
                            for response in call:
                                with changed:
                                    answers = feed.answered(frame_answer(response))
                                    changed.notify_all()
                                yield from answers
                        finally:
                            call.cancel()
                            with changed:
                                ended.set()
                                changed.notify_all()
                except LimelensError as error:
                    failure = error
                with changed:
                    pause_s = feed.pause_after(failure) if reconnect and failure else None
                    answers = feed.told()
                yield from answers
                if feed.error is not None:
                    raise feed.error
                if failure is not None and pause_s is None:
                    raise failure
                if pause_s is None:
                    return
                time.sleep(pause_s)
                with changed:
                    changed.wait_for(lambda: feed.has_news)
                if feed.is_empty:
                    if feed.error is not None:
                        raise feed.error
                    return
        finally:
            with changed:
                feed.closed = True
                changed.notify_all()


def _close(channel: Channel) -> None:
    if channel.channel is not None:
        channel.channel.close()


def _pull(frames: Iterable[Frame | ImageInput], feed: Feed, changed: threading.Condition) -> None:
    """Reads the source, as far as its frames are wanted."""
    failure: Exception | None = None
    try:
        source = iter(frames)
        while True:
            with changed:
                changed.wait_for(lambda: feed.closed or feed.wants)
                if feed.closed:
                    return
            try:
                frame = next(source)
            except StopIteration:
                return
            with changed:
                overtook = feed.put(frame)
                changed.notify_all()
                if overtook:
                    changed.wait(PAUSE_S)
    except Exception as error:
        failure = error
    finally:
        with changed:
            feed.end(failure)
            changed.notify_all()


def _messages(
    config: service_pb2.ClassifyStreamRequest,
    feed: Feed,
    changed: threading.Condition,
    ended: threading.Event,
) -> Iterator[service_pb2.ClassifyStreamRequest]:
    """What one call sends; read in a thread of gRPC's, which waits until each is on its way."""

    def can_go_on() -> bool:
        return feed.closed or ended.is_set() or feed.has_next or feed.is_empty

    yield config
    while True:
        with changed:
            changed.wait_for(can_go_on)
            if feed.closed or ended.is_set() or not feed.has_next:
                return
            frame = feed.take()
            changed.notify_all()
        try:
            message = frame_request(frame)
        except Exception as error:  # gRPC would end the stream and hide why
            with changed:
                feed.end(error)
            return
        yield message
