"""Counts the fields of a message in its bytes, before the message is parsed.

A few bytes on the wire can mean millions of objects, and parsing them blocks the event loop.
Counting stops at a limit and skips long fields. It knows protobuf's wire format and descriptors;
malformed messages are left to the parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from limelens.serve.errors import InvalidRequestError

MAX_REPEATED: Final = 4096  # limit on the elements of a repeated field that is not in `_LIMITS`
MAX_FIELDS: Final = 20_000  # limit on the fields of a message, at all depths together
MAX_NUMBERS: Final = 1_500_000
"""Limit on pixels sent one by one: parsing so many takes a few hundredths of a second."""
_LIMITS: Final[Mapping[str, int]] = {
    "inference.InferTensorContents.uint_contents": MAX_NUMBERS,
    "inference.ModelInferRequest.InferInputTensor.shape": 64,
    "limelens.v1.ExplainRequest.pictures": 64,
    "limelens.v1.ExplainRequest.contrasts": 1000,
}
_SMALL: Final = 2048  # messages up to this many bytes are parsed quickly, whatever they hold
_MAX_DEPTH: Final = 16
_FIXED: Final = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_NOT_PACKED: Final = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
    FieldDescriptor.TYPE_GROUP,
)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    most: int  # limit on elements; 0: not repeated
    inside: Descriptor | None
    is_packed: bool
    size: int  # of a packed element in bytes; 0: varints
    hint: str


_plans: dict[str, Mapping[int, _Field]] = {}


def check_fields(data: bytes, kind: Any) -> None:
    """Checks how much a message holds."""
    if len(data) > _SMALL:
        _Counting(data).walk(0, len(data), kind, "", 0)


class _Counting:
    """The count for one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_FIELDS

    def walk(self, at: int, end: int, kind: Descriptor, path: str, depth: int) -> None:
        data, plan = self._data, _plan(kind)
        counts: dict[int, int] = {}
        try:
            while at < end:
                self._left -= 1
                if self._left < 0:
                    raise InvalidRequestError(
                        path, f"more than {MAX_FIELDS:,} fields in the message; expected fewer"
                    )
                key = data[at]
                at += 1
                if key & 0x80:
                    key, at = _varint(data, at - 1)
                number, wire = (key & 0xFFFFFFFF) >> 3, key & 7  # as the parser reads it
                start, length = at, 0
                if wire == 0:
                    _, at = _varint(data, at)
                elif wire == 2:
                    length, start = _varint(data, at)
                    at = start + length
                    if at > end:
                        return
                elif wire in (1, 5):
                    at += 8 if wire == 1 else 4
                elif wire not in (3, 4):
                    return
                field = plan.get(number)
                if field is None:
                    continue
                if field.most:
                    count = 1
                    if wire == 2 and field.is_packed:
                        count = self._packed(field, start, length)
                    counts[number] = count = counts.get(number, 0) + count
                    if count > field.most:
                        raise InvalidRequestError(
                            path + field.name,
                            f"more than {field.most:,}; expected fewer{field.hint}",
                        )
                if wire == 2 and field.inside is not None and depth < _MAX_DEPTH:
                    place = f"[{count - 1}]" if field.most else ""
                    self.walk(start, at, field.inside, f"{path}{field.name}{place}.", depth + 1)
        except IndexError:
            return

    def _packed(self, field: _Field, start: int, length: int) -> int:
        """How many elements are packed into some bytes."""
        if field.size:
            return length // field.size
        if length <= field.most:
            return length  # an upper bound is enough here
        packed = np.frombuffer(self._data, np.uint8, length, start)
        return int(np.count_nonzero(packed < 0x80))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def _plan(kind: Descriptor) -> Mapping[int, _Field]:
    found = _plans.get(kind.full_name)
    if found is None:
        found = _plans[kind.full_name] = {
            field.number: _field(field)
            for field in kind.fields
            if field.is_repeated or field.message_type is not None
        }
    return found


def _field(field: Any) -> _Field:
    most = _LIMITS.get(field.full_name, MAX_REPEATED) if field.is_repeated else 0
    is_packed = field.is_repeated and field.type not in _NOT_PACKED
    hint = ", or raw_input_contents" if most == MAX_NUMBERS else ""
    return _Field(field.name, most, field.message_type, is_packed, _FIXED.get(field.type, 0), hint)
