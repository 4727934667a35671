"""Translates between domain errors and gRPC: errors to status and details, and back.

It is the only module that knows status codes. It sends nothing itself.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from limelens.serve import errors
from limelens.serve.errors import (
    BundleError,
    ExpiredError,
    InvalidImageError,
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)

DOMAIN: Final = "limelens"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_MAX_TEXT: Final = 1000  # trailers are limited to 8 KiB, and the text travels twice

_BY_REASON: Final = {
    kind.grpc_reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LimelensError) and "grpc_reason" in vars(kind)
}
_PLAIN: Final = (
    ExpiredError,
    UnavailableError,
    MissingExtraError,
    NotOfferedError,
    UnauthenticatedError,
    PermissionDeniedError,
    BundleError,
    ProviderError,
)
# Proxies in between, such as one that asks for tokens, give no details.
_BY_CODE: Final = {
    kind.grpc_status: kind
    for kind in (ExpiredError, UnavailableError, UnauthenticatedError, PermissionDeniedError)
}
_MAX_CHAIN: Final = 100
_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
# Absolute paths, paths from home or from here, and names that end like files that we read.
_PATH: Final = re.compile(
    r"(?<![\w./:-])(?:(?:/|~/|\.{1,2}/)[^\s'\"/,;]+(?:/[^\s'\",;:]*)*"
    r"|[\w.@+-]+/[^\s'\",;:]*\.(?:onnx|json|toml|pem|key|crt|data))"
)
_TOO_LARGE: Final = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")


def is_internal(error: BaseException) -> bool:
    """Whether the server is at fault, so that the log must have the details."""
    return _kind(error).grpc_status == "INTERNAL"


def code_name(code: Any) -> str:
    """The name of a status, such as `NOT_FOUND`, from any of gRPC's forms."""
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    known = _CODES.get(code)
    return "UNKNOWN" if known is None else str(known.name)


def code_number(name: str) -> int:
    """The number of a status on the wire."""
    return int(grpc.StatusCode[name].value[0])


def is_fault(name: str) -> bool:
    """Whether a status means that the server is at fault, not the client."""
    return name in _FAULTS


def left_code(remaining_s: float | None, passed_s: float) -> str:
    """The status that gRPC gives a client that cancelled its call.

    A client whose deadline passed cancels its call, too, and that often arrives before the server's
    own deadline: gRPC rounds it up, by up to a hundredth, when it sends it.

    Args:
        remaining_s: Seconds until the deadline; None if the call has none.
        passed_s: Seconds since the call arrived.
    """
    if remaining_s is None:
        return "CANCELLED"
    rounding = max(0.01, (passed_s + remaining_s) / 100)
    return "DEADLINE_EXCEEDED" if remaining_s <= rounding else "CANCELLED"


def without_paths(text: str) -> str:
    """A text for clients, with only the names of the server's files."""
    return _PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """The part of an error that is sent to the client; only the id if it is not limelens' own."""
    kind = _kind(error)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=kind.grpc_reason, domain=DOMAIN)]
    if kind.grpc_reason == LimelensError.grpc_reason:
        message = f"the server failed; see its log under request id {request_id}"
    else:
        message = _short(without_paths(str(error)))
    if kind.grpc_status == "INTERNAL":
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=_short(error.description)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, NotFoundError):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=error.kind, resource_name=error.name, description=message
            )
        )
    elif isinstance(error, OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_number(kind.grpc_status), message=message, details=packed)


Refusal = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]
"""Arguments of `ServicerContext.abort`: code, details, trailing metadata."""


def forget(error: BaseException | None) -> None:
    """Drops the frames and causes of an error, which hold the request in memory.

    The request often holds the error in turn, and only the garbage collector would find the cycle,
    some time later.
    """
    for _ in range(_MAX_CHAIN):
        if error is None:
            return
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)
            error.__traceback__ = None
        before, error.__cause__, error.__context__ = (
            error.__cause__ or error.__context__,
            None,
            None,
        )
        error = before


def to_abort(error: BaseException, request_id: str) -> Refusal:
    """An error as arguments of `ServicerContext.abort`."""
    status = to_status(error, request_id)
    trailing: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, OverloadedError):
        # Delays gRPC's own retries.
        trailing.append((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    return _CODES[status.code], status.message, tuple(trailing)


def from_call(error: grpc.RpcError) -> LimelensError:
    """The error behind a failed call."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    found = _details(error.trailing_metadata() or ())
    info = found.get("ErrorInfo")
    reason = info.reason if info is not None and info.domain == DOMAIN else ""
    kind = _BY_REASON.get(reason)
    if kind is not None and issubclass(kind, InvalidRequestError) and "BadRequest" in found:
        violation = found["BadRequest"].field_violations[0]
        if issubclass(kind, InvalidImageError):
            return kind(violation.description, violation.field)
        return kind(violation.field, violation.description)
    if kind is NotFoundError and "ResourceInfo" in found:
        resource = found["ResourceInfo"]
        return NotFoundError(message, kind=resource.resource_type, name=resource.resource_name)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        too_large = _TOO_LARGE.search(message) if kind is None else None
        if too_large is not None:  # gRPC's own limit; no retry can help
            size, limit = map(int, too_large.groups())
            return InvalidRequestError("", f"message of {size:,} bytes; the limit is {limit:,}")
        delay = found["RetryInfo"].retry_delay.ToTimedelta() if "RetryInfo" in found else None
        return OverloadedError(message, delay.total_seconds() if delay else 1.0)
    plain = kind if kind in _PLAIN else _BY_CODE.get(code.name)
    if plain is not None:
        return plain(message)
    request_id = found["RequestInfo"].request_id if "RequestInfo" in found else ""
    return ServerError(message, code=code.name, request_id=request_id)


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _kind(error: BaseException) -> type[LimelensError]:
    """The class whose status and reason the error has on the wire."""
    return type(error) if isinstance(error, LimelensError) else LimelensError


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _details(trailing: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in trailing:
        if key == DETAILS_KEY:
            for packed in status_pb2.Status.FromString(value).details:
                kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2], None)
                if kind is not None:
                    found[kind.DESCRIPTOR.name] = detail = kind()
                    packed.Unpack(detail)
    return found
