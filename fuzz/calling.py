"""Calls a server with arbitrary bytes and checks the responses.

It knows gRPC and google.rpc's details, and of the contract only the messages' descriptors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

TIMEOUT_S: Final = 60.0
"""Every request takes less than a hundredth of it, but the machine may be busy."""
_STEP: Final = re.compile(r"(\w+)(?:\[[^\]]*\])?\Z")
_OPTIONS: Final = [
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


@dataclass(frozen=True, eq=False)
class CallResult:
    """How a call ended.

    Args:
        code: Name of the status, such as `OK`.
        message: The status' text.
        reason: The reason in ErrorInfo; empty without one.
        fields: Paths of the request's fields that the server reports as wrong.
        replies: Responses before the end.
    """

    code: str
    message: str
    reason: str
    fields: tuple[str, ...]
    replies: tuple[Any, ...]


class Caller:
    """Calls one server.

    Args:
        address: Its `HOST:PORT`.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def is_serving(self) -> bool:
        """Whether the server reports that it is serving."""
        reply = self._health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def call(self, method: MethodDescriptor, sent: Sequence[bytes]) -> CallResult:
        """Calls a method with bytes that need not be a valid message.

        Args:
            method: Of the contract.
            sent: One message, or any number for a method that takes a stream.
        """
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind: Any = method.output_type
        reply = kind._concrete_class
        replies: list[Any] = []
        try:
            if method.client_streaming:
                call: grpc.StreamStreamMultiCallable[bytes, Any]
                call = self._channel.stream_stream(path, None, reply.FromString)
                replies.extend(call(iter(sent), timeout=TIMEOUT_S))
            elif method.server_streaming:
                streaming: grpc.UnaryStreamMultiCallable[bytes, Any]
                streaming = self._channel.unary_stream(path, None, reply.FromString)
                replies.extend(streaming(sent[0], timeout=TIMEOUT_S))
            else:
                unary: grpc.UnaryUnaryMultiCallable[bytes, Any]
                unary = self._channel.unary_unary(path, None, reply.FromString)
                replies.append(unary(sent[0], timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            return _refused(error, replies)
        return CallResult("OK", "", "", (), tuple(replies))


def can_be_parsed(kind: Any, data: bytes) -> bool:
    """Whether bytes can be parsed as a message."""
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


def names_a_field(kind: Descriptor, path: str) -> bool:
    """Whether a path such as `images[2].encoded` leads to a field or a oneof of a message."""
    first, _, rest = path.partition(".")
    step = _STEP.match(first)
    if step is None:
        return False
    if not rest and step[1] in kind.oneofs_by_name:
        return True
    field = kind.fields_by_name.get(step[1])
    if field is None or not rest:
        return field is not None
    return field.message_type is not None and names_a_field(field.message_type, rest)


def is_finite(message: Message) -> bool:
    """Whether every number in a message, at any depth, is finite."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        check: Any = None
        if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            check = math.isfinite
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            check = is_finite
        if check is not None and not all(map(check, values)):
            return False
    return True


def _refused(error: Any, replies: Sequence[Any]) -> CallResult:
    status = rpc_status.from_call(error)
    reason, fields = "", []
    for packed in status.details if status else ():
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            reason = info.reason
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest()
            packed.Unpack(request)
            fields = [violation.field for violation in request.field_violations]
    return CallResult(
        error.code().name, error.details() or "", reason, tuple(fields), tuple(replies)
    )
