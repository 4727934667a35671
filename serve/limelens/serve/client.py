"""The client: pictures in, plain answers out, over gRPC.

It needs neither onnxruntime nor scikit-image. It knows connections, deadlines and retries, and
leaves what pictures mean to the server.
"""

from __future__ import annotations

import datetime
import io
import ipaddress
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, TypeVar, Unpack

import grpc
import numpy as np
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.answers import (
    Classification,
    Embeddings,
    ExplanationUpdate,
    FrameAnswer,
    ModelInfo,
    ServedExplanation,
    classification,
    embeddings,
    explanation_update,
    frame_answer,
    model_info,
    served_explanation,
)
from limelens.serve.errors import InvalidRequestError
from limelens.serve.image import Region
from limelens.serve.status import from_call
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import explanation_pb2, image_pb2

Picture = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""A file's path, a file's bytes, or `(H, W, 3)` uint8 RGB pixels."""

SegmentationMethod = Literal["slic", "quickshift", "felzenszwalb", "grid"]
Drawn = Literal["overlay", "heat_map", "segments"]
Method = Literal["lime", "kernel_shap", "occlusion", "rise"]
Hide = Literal["mean", "blur", "shuffle"] | tuple[int, int, int]
Token = str | Callable[[], str]
"""What the server knows the caller by, or what gives it for each call."""

_MAX_RAW_BYTES: Final = 4 * 1024 * 1024
"""Larger arrays travel as PNG: slower to make, and nothing is lost."""
_MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
_SERVICE: Final = "limelens.v1.ClassifierService"
_TOKEN: Final = re.compile(r"[!-~]+")
_T = TypeVar("_T")


class ExplainArguments(TypedDict, total=False):
    """The keyword arguments of `Client.explain`, which says what each of them means."""

    model: str
    version: int
    labels: Sequence[str]
    top_labels: int
    contrasts: Sequence[tuple[str, str]]
    method: Method | None
    segmentation: SegmentationMethod | None
    num_segments: int
    segmentation_options: Mapping[str, float] | None
    segments: bytes | NDArray[np.integer] | None
    num_samples: int
    stability: float | None
    max_samples: int
    deadline_ms: int
    hide: Hide
    kernel_width: float | None
    distance: Literal["cosine", "euclidean"] | None
    feature_selection: str | None
    num_features: int
    sampling: Literal["paired", "independent"] | None
    seed: int | None
    compat: Literal["lime"] | None
    pictures: Iterable[Drawn]
    region: Region | None
    timeout_s: float | None


@dataclass(frozen=True)
class Tls:
    """How the server proves who it is, and the client too where it must.

    Args:
        ca: Who signs servers' certificates, a PEM file; None is the system's authorities.
        certificate: The client's own chain, a PEM file.
        key: Its private key, a PEM file.
        server_name: The name in the server's certificate, where it is not the one dialled.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a camera.

    Args:
        frame_id: Rising number, at least 0.
        image: The frame.
        capture_time: When the camera took it; comes back with the answer. Without a time zone
            it is taken as UTC.
    """

    frame_id: int
    image: Picture
    capture_time: datetime.datetime | None = None


class Client:
    """A connection to a limelens server; may be shared by threads.

    Calls that fail because the server is busy or not there yet are tried again a few times,
    within their deadline.

        with Client("127.0.0.1:8500") as client:
            print(client.classify(["door.jpg"])[0].label)

    Args:
        address: `HOST:PORT`.
        tls: None is plaintext.
        token: Sent with each call as `authorization: Bearer …`; a function is asked for each.
        insecure_token: Whether the token may be sent in plaintext to other machines.
        timeout_s: Deadline of a call that names none itself; None is no deadline.
        max_attempts: How often a call is tried, 1 to 5.

    Raises:
        InvalidRequestError: The token would be sent in plaintext to another machine.
        OSError: A certificate cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        insecure_token: bool = False,
        timeout_s: float | None = 60.0,
        max_attempts: int = 4,
    ) -> None:
        if token is not None and tls is None and not insecure_token and not is_loopback(address):
            raise InvalidRequestError(
                "token",
                f"to be sent to {address} in plaintext, where anybody in between can read it; "
                "expected TLS, or an address of this machine",
            )
        self._timeout_s = timeout_s
        self._token = token
        self._channel: grpc.Channel | None
        options = _options(max_attempts, tls)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, _credentials(tls), options)
        self._stub: Any = service_grpc.ClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]

    @classmethod
    def over(cls, stub: Any) -> Self:
        """A client that asks something else than a gRPC channel.

        Args:
            stub: Has the unary methods of `ClassifierService` and `ExplainStream` by their names,
                each called with a request and `timeout` in seconds.
        """
        client = cls.__new__(cls)
        client._timeout_s = None
        client._token = None
        client._channel = None
        client._stub = stub
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
        """Closes the connection; calls under way are cancelled."""
        if self._channel is not None:
            self._channel.close()

    def classify(
        self,
        images: Picture | Iterable[Picture],
        *,
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        threshold: float | None = None,
        embedding: bool = False,
        region: Region | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Classifies one picture or several.

        Args:
            images: Paths, files' bytes or arrays, one or several.
            model: Empty means the only one served.
            version: 0 means the newest.
            top_k: Scores for each picture; 0 means 5 or all, whichever is less.
            threshold: The least probability for a decision, in place of the model's own.
            embedding: Whether to return the feature vectors.
            region: The part of every picture that is looked at.
            timeout_s: Deadline; None is the client's.

        Returns:
            The predictions, in the order of the pictures.

        Raises:
            InvalidRequestError: A picture or a parameter cannot be used; it names which.
            NotFoundError: There is no such model or version.
            OverloadedError: The server is busy, even after trying again.
            ExpiredError: The deadline passed.
            UnavailableError: Nobody answers there.
            ServerError: The server failed.
            OSError: A file cannot be read.
        """
        request = service_pb2.ClassifyRequest(
            model=model,
            version=version,
            images=_images(images, region),
            top_k=top_k,
            threshold=threshold,
            return_embedding=embedding,
        )
        return classification(self._call(self._stub.Classify, request, timeout_s))

    def embed(
        self,
        images: Picture | Iterable[Picture],
        *,
        model: str = "",
        version: int = 0,
        normalize: bool = False,
        region: Region | None = None,
        timeout_s: float | None = None,
    ) -> Embeddings:
        """Feature vectors of one picture or several, by which similar pictures are found.

        Args:
            images: Paths, files' bytes or arrays, one or several.
            model: Empty means the only one served.
            version: 0 means the newest.
            normalize: Whether each vector is divided by its length, so that the dot product of
                two is their cosine similarity.
            region: The part of every picture that is looked at.
            timeout_s: Deadline; None is the client's.

        Returns:
            One row for each picture, in their order.

        Raises:
            LimelensError: As `classify`.
            OSError: A file cannot be read.
        """
        request = service_pb2.EmbedRequest(
            model=model,
            version=version,
            images=_images(images, region),
            normalize=normalize,
        )
        return embeddings(self._call(self._stub.Embed, request, timeout_s))

    def explain(
        self,
        image: Picture,
        *,
        model: str = "",
        version: int = 0,
        labels: Sequence[str] = (),
        top_labels: int = 0,
        contrasts: Sequence[tuple[str, str]] = (),
        method: Method | None = None,
        segmentation: SegmentationMethod | None = None,
        num_segments: int = 0,
        segmentation_options: Mapping[str, float] | None = None,
        segments: bytes | NDArray[np.integer] | None = None,
        num_samples: int = 0,
        stability: float | None = None,
        max_samples: int = 0,
        deadline_ms: int = 0,
        hide: Hide = "mean",
        kernel_width: float | None = None,
        distance: Literal["cosine", "euclidean"] | None = None,
        feature_selection: str | None = None,
        num_features: int = 0,
        sampling: Literal["paired", "independent"] | None = None,
        seed: int | None = None,
        compat: Literal["lime"] | None = None,
        pictures: Iterable[Drawn] = (),
        region: Region | None = None,
        timeout_s: float | None = None,
    ) -> ServedExplanation:
        """Explains what the model says of one picture.

        Args:
            image: A path, a file's bytes or an array.
            model: Empty means the only one served.
            version: 0 means the newest.
            labels: To explain, by name; empty means the most probable.
            top_labels: How many of the most probable; 0 means 1, or none with `contrasts`.
            contrasts: Pairs of labels: why the first and not the second. They come after labels.
            method: None means lime.
            segmentation: How the picture is cut; None is the server's default.
            num_segments: For slic and grid; 0 is the server's default.
            segmentation_options: The method's other parameters, by their names in the contract.
            segments: The caller's own, as a 16-bit PNG or as an array, of the upright picture's
                size.
            num_samples: Pictures that the model is shown; 0 means 1000.
            stability: Sample until this is reached, at most `max_samples`.
            max_samples: The cap on that; 0 means `num_samples`.
            deadline_ms: Explain from what there is after so many milliseconds; 0 is no limit.
                `timeout_s` in contrast ends the call without an answer.
            hide: What stands where a segment is hidden; a tuple is a colour, red, green, blue.
            kernel_width: Of the kernel that weighs near samples.
            distance: Of a sample from the whole picture.
            feature_selection: `none`, `auto`, `forward_selection`, `highest_weights` or
                `lasso_path`.
            num_features: Most segments in the surrogate; 0 means all.
            sampling: None is what suits.
            seed: None means that the server draws one.
            compat: `lime` for the algorithm of the `lime` package.
            pictures: What to draw.
            region: The part of the picture that is looked at.
            timeout_s: Deadline; None is the client's.

        Raises:
            LimelensError: As `classify`.
            OSError: The file cannot be read.
        """
        request = explain_request(
            image,
            model=model,
            version=version,
            labels=labels,
            top_labels=top_labels,
            contrasts=contrasts,
            method=method,
            segmentation=segmentation,
            num_segments=num_segments,
            segmentation_options=segmentation_options,
            segments=segments,
            num_samples=num_samples,
            stability=stability,
            max_samples=max_samples,
            deadline_ms=deadline_ms,
            hide=hide,
            kernel_width=kernel_width,
            distance=distance,
            feature_selection=feature_selection,
            num_features=num_features,
            sampling=sampling,
            seed=seed,
            compat=compat,
            pictures=pictures,
            region=region,
        )
        return served_explanation(self._call(self._stub.Explain, request, timeout_s))

    def explain_stream(
        self, image: Picture, **arguments: Unpack[ExplainArguments]
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
        timeout_s = arguments.pop("timeout_s", None)
        request = explain_request(image, **arguments)
        return self._updates(request, timeout_s)

    def stream(
        self,
        frames: Iterable[Frame | Picture],
        *,
        camera_id: str = "camera",
        model: str = "",
        version: int = 0,
        region: Region | None = None,
        smoothing: tuple[int, int] | None = None,
        max_frame_age_s: float = 0.0,
        top_k: int = 0,
        threshold: float | None = None,
    ) -> Iterator[FrameAnswer]:
        """Classifies a camera's frames as they come.

        `frames` is read in a thread of gRPC's. When the server has a newer frame it answers the
        older as superseded, so a fast reader of a file loses frames; a camera never waits.

        Args:
            frames: Frames, or pictures that are numbered from 0.
            camera_id: The camera's name in the server's log.
            model: Empty means the only one served.
            version: 0 means the newest.
            region: The part of every frame that is looked at.
            smoothing: (window, required): how many of the last frames must agree.
            max_frame_age_s: Older frames are dropped; 0 means no limit.
            top_k: Scores for each frame; 0 means 5 or all, whichever is less.
            threshold: The least probability for a decision, in place of the model's own.

        Yields:
            One answer for each frame, as soon as it is known.

        Raises:
            LimelensError: As `classify`; a frame that cannot be read is an answer, not an error.
        """
        config = service_pb2.StreamConfig(
            camera_id=camera_id,
            model=model,
            version=version,
            max_frame_age_ms=round(max_frame_age_s * 1000),
            top_k=top_k,
            threshold=threshold,
        )
        if region is not None:
            config.region_of_interest.CopyFrom(_region(region))
        if smoothing is not None:
            config.smoothing.window, config.smoothing.required = smoothing
        failed: list[Exception] = []

        def messages() -> Iterator[service_pb2.ClassifyStreamRequest]:
            try:
                yield service_pb2.ClassifyStreamRequest(config=config)
                for number, frame in enumerate(frames):
                    yield service_pb2.ClassifyStreamRequest(frame=_frame(frame, number))
            except Exception as error:
                # gRPC would end the stream and hide why.
                failed.append(error)
                raise

        call = self._stub.ClassifyStream(messages(), wait_for_ready=True, **self._metadata())
        try:
            for response in call:
                yield frame_answer(response)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise from_call(error) from None
        finally:
            call.cancel()

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """What is served, by name and version; without cards.

        Raises:
            LimelensError: As `classify`.
        """
        request = service_pb2.ListModelsRequest()
        response = self._call(self._stub.ListModels, request, timeout_s)
        return tuple(model_info(model) for model in response.models)

    def model(
        self, name: str = "", version: int = 0, *, timeout_s: float | None = None
    ) -> ModelInfo:
        """One model with its card.

        Args:
            name: Empty means the only one served.
            version: 0 means the newest.
            timeout_s: Deadline; None is the client's.

        Raises:
            LimelensError: As `classify`.
        """
        request = service_pb2.GetModelRequest(model=name, version=version)
        return model_info(self._call(self._stub.GetModel, request, timeout_s).model)

    def _updates(
        self, request: service_pb2.ExplainRequest, timeout_s: float | None
    ) -> Generator[ExplanationUpdate, None, None]:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        call = self._stub.ExplainStream(request, timeout=timeout_s, **self._metadata())
        try:
            for response in call:
                yield explanation_update(response)
        except grpc.RpcError as error:
            raise from_call(error) from None
        finally:
            call.cancel()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        metadata = self._metadata()
        try:
            return method(request, timeout=timeout_s, **metadata)
        except grpc.RpcError as error:
            raise from_call(error) from None

    def _metadata(self) -> dict[str, Any]:
        """What proves to the server who calls, as an argument of a call."""
        if self._token is None:
            return {}
        token = self._token() if callable(self._token) else self._token
        if not _TOKEN.fullmatch(token):  # never shown: it may be a true one with a newline
            raise InvalidRequestError(
                "token", f"{len(token)} characters; expected printable ASCII without spaces"
            )
        return {"metadata": (("authorization", f"Bearer {token}"),)}


def is_loopback(address: str) -> bool:
    """Whether an address such as `localhost:8500` can only be this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_SEGMENTATION_FIELDS: Final = frozenset(
    name
    for name in explanation_pb2.Segmentation.DESCRIPTOR.fields_by_name
    if name not in ("method", "num_segments", "segments_png")
)


def _options(max_attempts: int, tls: Tls | None) -> list[tuple[str, Any]]:
    names = ["Classify", "Embed", "Explain", "ExplainStream", "ListModels", "GetModel"]
    config: dict[str, Any] = {
        "methodConfig": [
            {
                "name": [{"service": _SERVICE, "method": name} for name in names],
                "retryPolicy": {
                    "maxAttempts": max_attempts,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
    if max_attempts <= 1:
        config = {}
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # Requests above it are not tried again: the default would leave most pictures out.
        ("grpc.per_rpc_retry_buffer_size", 8 * 1024 * 1024),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        *(
            None if path is None else path.read_bytes()
            for path in (tls.ca, tls.key, tls.certificate)
        )
    )


def _several(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(images, (str, bytes, os.PathLike)):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    return images


def _images(images: Picture | Iterable[Picture], region: Region | None) -> list[image_pb2.Image]:
    return [_image(image, region, f"images[{i}]") for i, image in enumerate(_several(images))]


def _image(picture: Picture, region: Region | None, name: str) -> image_pb2.Image:
    image = image_pb2.Image()
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise InvalidRequestError(
                name, f"{picture.dtype} {picture.shape}; expected uint8 (H, W, 3) RGB"
            )
        if 0 < picture.nbytes <= _MAX_RAW_BYTES:
            image.raw.data = picture.tobytes()
            image.raw.height, image.raw.width = picture.shape[:2]
        elif picture.nbytes:
            image.encoded = _png(Image.fromarray(picture))
    elif isinstance(picture, bytes):
        image.encoded = picture
    else:
        image.encoded = Path(picture).read_bytes()
    if region is not None:
        image.region_of_interest.CopyFrom(_region(region))
    return image


def _frame(frame: Frame | Picture, number: int) -> service_pb2.Frame:
    if not isinstance(frame, Frame):
        frame = Frame(number, frame)
    message = service_pb2.Frame(
        frame_id=frame.frame_id, image=_image(frame.image, None, f"frame {frame.frame_id}")
    )
    if frame.capture_time is not None:
        captured = timestamp_pb2.Timestamp()
        captured.FromDatetime(frame.capture_time)
        message.capture_time.CopyFrom(captured)
    return message


def _region(region: Region) -> image_pb2.RegionOfInterest:
    return image_pb2.RegionOfInterest(
        left=region.left, top=region.top, right=region.right, bottom=region.bottom
    )


def explain_request(
    image: Picture, **arguments: Unpack[ExplainArguments]
) -> service_pb2.ExplainRequest:
    """The arguments of `Client.explain`, but for its deadline, as a message.

    Raises:
        InvalidRequestError: A word that means nothing, or a picture that is none.
        OSError: The file cannot be read.
    """
    cut: dict[str, Any] = dict(arguments.get("segmentation_options") or {})
    unknown = sorted(set(cut) - _SEGMENTATION_FIELDS)
    if unknown:
        raise InvalidRequestError(
            "segmentation_options",
            f"{unknown}; expected some of {', '.join(sorted(_SEGMENTATION_FIELDS))}",
        )
    segments = arguments.get("segments")
    if segments is not None:
        cut["segments_png"] = segments if isinstance(segments, bytes) else _ids_png(segments)
    # What is left is a field by the same name, or an enum by the same name.
    fields: dict[str, Any] = {
        name: value for name, value in arguments.items() if name not in _OWN_FIELDS
    }
    for name, kind in _ENUMS.items():
        if name in fields:
            fields[name] = _value(kind, name, fields[name])
    return service_pb2.ExplainRequest(
        image=_image(image, arguments.get("region"), "image"),
        segmentation=explanation_pb2.Segmentation(
            method=_value(
                explanation_pb2.SegmentationMethod, "segmentation", arguments.get("segmentation")
            ),
            num_segments=arguments.get("num_segments") or 0,
            **cut,
        ),
        contrasts=[
            explanation_pb2.Contrast(label=label, against=against)
            for label, against in arguments.get("contrasts") or ()
        ],
        hide=_hide(arguments.get("hide") or "mean"),
        pictures=[
            _value(explanation_pb2.Picture, "pictures", one)
            for one in arguments.get("pictures") or ()
        ],
        **fields,
    )


_OWN_FIELDS: Final = frozenset(
    {
        "contrasts",
        "hide",
        "num_segments",
        "pictures",
        "region",
        "segmentation",
        "segmentation_options",
        "segments",
    }
)
_ENUMS: Final[Mapping[str, Any]] = {
    "compat": explanation_pb2.Compat,
    "distance": explanation_pb2.Distance,
    "feature_selection": explanation_pb2.FeatureSelection,
    "method": explanation_pb2.ExplainMethod,
    "sampling": explanation_pb2.Sampling,
}


def _hide(hide: Hide) -> explanation_pb2.Hide:
    if hide == "mean":
        return explanation_pb2.Hide()
    if hide == "blur":
        return explanation_pb2.Hide(blur=True)
    if hide == "shuffle":
        return explanation_pb2.Hide(shuffle=True)
    try:
        red, green, blue = hide
        fits = all(0 <= value <= 255 for value in (red, green, blue))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InvalidRequestError(
            "hide", f"{hide!r}; expected 'mean', 'blur', 'shuffle' or (r, g, b)"
        )
    return explanation_pb2.Hide(color=red << 16 | green << 8 | blue)


def _value(kind: Any, name: str, word: str | None) -> Any:
    """The enum value that a word such as `paired` stands for."""
    names: list[str] = kind.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if word is None:
        return 0
    if word == "unspecified" or prefix + word.upper() not in names:
        words = ", ".join(known.removeprefix(prefix).lower() for known in names[1:])
        raise InvalidRequestError(name, f"{word!r}; expected one of {words}")
    return kind.Value(prefix + word.upper())


def _ids_png(segments: NDArray[np.integer]) -> bytes:
    if segments.ndim != 2 or segments.min() < 0 or segments.max() > 65535:
        raise InvalidRequestError(
            "segments", f"shape {segments.shape}; expected (H, W) ids from 0 to 65534"
        )
    return _png(Image.fromarray(segments.astype(np.uint16)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
