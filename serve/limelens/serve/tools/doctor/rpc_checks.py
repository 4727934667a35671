"""The calls of a server: its health, whether it knows the caller, what the caller may do.

It is a client like any other; the connection was checked before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
import numpy as np

from limelens.serve.about import UNKNOWN, package_version
from limelens.serve.client import Client, ConnectArguments, Connection, Token
from limelens.serve.client.results import ModelInfo
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from limelens.serve.status import from_call
from limelens.serve.tools.doctor.check import Check, ok, warning, wrong

_SERVICE: Final = "limelens.v1.ClassifierService"
_NUM_ROUND_TRIPS: Final = 5
_NUM_SAMPLES: Final = 10  # the fewest that a server takes
_LARGE_BYTES: Final = 64 * 1024 * 1024
_IMAGE: Final = np.full((16, 16, 3), 128, np.uint8)


def check_calls(
    address: str, settings: ConnectArguments, *, deep: bool, only_health: bool
) -> Iterator[Check]:
    """Checks a server by calling it; `deep` and `only_health` as for `check_remote`."""
    settings = {**settings, "max_attempts": 1}
    nobody: ConnectArguments = {**settings, "token": None}
    token, timeout_s = settings.get("token"), settings.get("timeout_s")
    try:
        client = Client(address, **settings)
    except InvalidRequestError as error:
        yield wrong("token", str(error), "use TLS (--ca FILE, --tls), or give --insecure-token")
        return
    unlimited = ("grpc.max_send_message_length", -1)
    with client, Connection(address, **nobody).channel(grpc, unlimited) as channel:
        health = list(_health(channel, timeout_s))
        yield from health
        if only_health or (health and health[0].name == "calls"):
            return
        yield from _rights(client, address, nobody, token, deep=deep)
        yield from _version(channel, token, timeout_s)
        if deep:
            yield _message_size(channel, timeout_s)


def _health(channel: Any, timeout_s: float | None) -> Iterator[Check]:
    """The server's health, and the time of a round trip."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ImportError:  # the client's packages alone
        return
    stub = health_pb2_grpc.HealthStub(channel)
    took_ms = []
    try:
        for _ in range(_NUM_ROUND_TRIPS + 1):
            began = time.monotonic()
            answer = stub.Check(health_pb2.HealthCheckRequest(service=_SERVICE), timeout=timeout_s)
            took_ms.append((time.monotonic() - began) * 1000)
    except grpc.RpcError as rpc_error:
        error = from_call(rpc_error)
        if isinstance(error, NotFoundError) or _is_unimplemented(error):
            yield warning(
                "health",
                f"the server does not report the health of {_SERVICE}",
                "check the port: that may be another gRPC server, or a proxy",
            )
        else:
            yield wrong("calls", f"calls do not get through: {error}", "look at the server's log")
        return
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        yield ok("health", "SERVING")
    else:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        yield wrong(
            "health",
            name,
            "the server is going down, or the owner of its GPU is replaced; check again soon",
        )
    median, most = statistics.median(took_ms[1:]), max(took_ms[1:])
    yield ok("round trip", f"median {median:.1f} ms of {_NUM_ROUND_TRIPS}, at most {most:.1f}")


def _is_unimplemented(error: LimelensError) -> bool:
    return isinstance(error, ServerError) and error.code == "UNIMPLEMENTED"


def _rights(
    client: Client, address: str, nobody: ConnectArguments, token: Token | None, *, deep: bool
) -> Iterator[Check]:
    """Whether the caller is known, and what it may do."""
    models: Sequence[ModelInfo] = ()

    def list_models() -> str:
        nonlocal models
        models = client.models()
        return ", ".join(f"{one.name} {one.version}" for one in models)

    def classify() -> str:
        found = client.classify(_IMAGE, model=models[0].name if models else "")
        return f"{found.model.name} {found.model.version} in {found.timings_ms.total:.1f} ms"

    def explain() -> str:
        found = client.explain(
            _IMAGE,
            model=models[0].name if models else "",
            segmentation="grid",
            num_segments=4,
            num_samples=_NUM_SAMPLES,
        )
        return f"{found.num_samples} samples in {found.timings_ms.total:.1f} ms"

    calls = {"models": list_models, "classify": classify}
    if deep:
        calls["explain"] = explain
    num_denied = 0
    for right, call in calls.items():
        name = f"right {right}"
        try:
            yield ok(name, call())
        except UnauthenticatedError as error:
            if token is None:
                found = "the server needs a token, and none was sent"
                advice = (
                    "put yours into a file and name it (--token-file FILE), or set LIMELENS_TOKEN"
                )
            else:
                found = f"the server refuses the token: {error}"
                advice = "get a new one from the server's operator (limelens token) or its issuer"
            yield wrong("token", found, advice)
            return
        except PermissionDeniedError as error:
            num_denied += 1
            yield warning(name, str(error), "nothing to do if it is not needed")
        except (InvalidRequestError, NotFoundError):
            # The caller may not list models, so none was named; but the call was let in.
            yield ok(name, "granted")
        except OverloadedError as error:
            advice = f"again in {error.retry_after_s:.0f} s or more"
            yield warning(name, f"the server is busy: {error}", advice)
        except LimelensError as error:
            if _is_unimplemented(error):
                found = "a gRPC server that is not limelens, or an older one"
                yield wrong("service", found, "check the port")
                return
            yield wrong(name, str(error), "look at the server's load and log")
    if num_denied == len(calls):
        yield wrong(
            "rights",
            "the caller is known and has none of these rights",
            "ask the people who run the server for rights",
        )
    if token is not None:
        yield _token_needed(address, nobody)
    yield from _limits(models)


def _token_needed(address: str, nobody: ConnectArguments) -> Check:
    """Whether the server refuses callers without the token."""
    with Client(address, **nobody) as client:
        try:
            client.models()
        except UnauthenticatedError:
            return ok("token", "accepted")
        except LimelensError:
            pass
    tls = nobody.get("tls")
    if tls is not None and tls.certificate is not None:
        return ok("token", "accepted; the certificate alone is known here too")
    return warning(
        "token",
        "the server needs none, and anybody may call",
        "start it with --tokens FILE or --jwt-key FILE if that is not intended",
    )


def _limits(models: Sequence[ModelInfo]) -> Iterator[Check]:
    for one in models:
        name = f"model {one.name} {one.version}"
        if not one.ready:
            found = f"not served: {one.state_reason}" if one.state_reason else "not served"
            yield warning(name, found, "look at the server's log")
            continue
        found = (
            f"{one.provider}, {one.precision}, up to {one.max_images} images of "
            f"{one.max_pixels:,} pixels in a request"
        )
        if one.provider_reason:
            yield warning(
                name, f"{found}; no GPU: {one.provider_reason}", "see limelens doctor there"
            )
        elif one.no_graph_reason:
            yield warning(
                name,
                f"{found}; the GPU replays no CUDA graphs: {one.no_graph_reason}",
                "it works, but more slowly than it could; export the model as fp32 or fp16",
            )
        else:
            yield ok(name, found)


def _version(channel: Any, token: Token | None, timeout_s: float | None) -> Iterator[Check]:
    """Whether both sides have the same version."""
    try:
        from limelens.inference import inference_service_pb2 as inference_pb2
        from limelens.inference import inference_service_pb2_grpc as inference_grpc
    except TypeError:  # this process has loaded tritonclient's messages of the same names
        return
    metadata = None
    if token is not None:
        text = token() if callable(token) else token
        metadata = (("authorization", f"Bearer {text}"),)
    stub = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    try:
        there = stub.ServerMetadata(
            inference_pb2.ServerMetadataRequest(), timeout=timeout_s, metadata=metadata
        ).version
    except grpc.RpcError:  # the caller may not ask
        return
    here = package_version()
    if UNKNOWN in (there, here):
        return
    if there == here:
        yield ok("version", f"limelens {here} on both sides")
    else:
        yield warning(
            "version",
            f"limelens {there} there, {here} here",
            "features of only one do not work; install the same on both",
        )


def _message_size(channel: Any, timeout_s: float | None) -> Check:
    """The largest message: sends one that is too large; only its head arrives."""
    send = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        send(bytes(_LARGE_BYTES), timeout=timeout_s)
    except grpc.RpcError as rpc_error:
        error = from_call(rpc_error)
        if isinstance(error, InvalidRequestError):
            return ok("message size", f"refused: {error.description}")
        if isinstance(error, (ExpiredError, UnavailableError)):
            advice = "check again once the server is less busy, or with a longer --timeout-s"
            return warning(
                "message size", f"{_LARGE_BYTES:,} bytes had no response: {error}", advice
            )
    return ok("message size", f"{_LARGE_BYTES:,} bytes and more are accepted")
