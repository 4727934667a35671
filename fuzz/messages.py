"""Random protobuf messages, made from their descriptors: usable ones, spoilt ones, broken bytes.

It knows protobuf and Hypothesis, but not the contract's messages: a table lists usable values of
fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)
_MOST_SPOILT: Final = 3
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS: Final = (0.0, -0.0, 0.5, 1.0, -1.0, 1 + 1e-6, 1e-45, 1e-300, 1e38, 1e300)
_TEXTS: Final = (
    "",
    "\0",
    "a\nb: c",
    "../../etc/passwd",
    "%s%n{0}",
    "é" * 300,
    "😀" * 5000,
    "\u202e\ufeff",
    "x" * 100_000,
)


class Usable:
    """Values that a caller who knows the contract puts into its fields.

    Args:
        values: Values by a field's or message's full name; None means unset. A field that is not
            named stays unset, or is a usable message.
    """

    def __init__(self, values: Mapping[str, st.SearchStrategy[Any]]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return "usable values"  # listing all of them would hide what failed


def choice(values: Sequence[_T]) -> st.SearchStrategy[_T]:
    """One of some values, which may be large, so a failure names it by its number."""
    return st.integers(0, len(values) - 1).map(lambda number: values[number])


def messages(kind: type[_M], usable: Usable) -> st.SearchStrategy[_M]:
    """Messages that a caller who knows the contract might send."""
    return _messages(kind, usable)


@st.composite
def spoilt(draw: st.DrawFn, kind: type[_M], usable: Usable) -> _M:
    """Usable messages with up to three fields, at any depth, cleared or set to any value."""
    message = draw(_messages(kind, usable))
    for _ in range(draw(st.integers(0, _MOST_SPOILT))):
        _spoil(draw, message, usable)
    return message


@st.composite
def broken(draw: st.DrawFn, kind: type[_M], usable: Usable) -> bytes:
    """Bytes of a message with some changed, removed, inserted or repeated, or of two messages."""
    data = bytearray(draw(_messages(kind, usable)).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        way = draw(st.sampled_from(("change", "cut", "put", "twice", "end", "another")))
        if way == "change":
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif way == "cut":
            del data[start:end]
        elif way == "put":
            data[start:start] = draw(st.binary(min_size=1, max_size=20))
        elif way == "twice":
            data[start:start] = data[start:end]
        elif way == "end":
            del data[start:]
        else:
            data += draw(_messages(kind, usable)).SerializeToString()
    return bytes(data)


def anything(field: Any) -> st.SearchStrategy[Any]:
    """Values that a scalar field can hold on the wire, odd ones first."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, -1, max(known) + 1, 2**31 - 1, -(2**31)])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in _INTEGERS:
        least, most = _INTEGERS[kind]
        near = {-1, 0, 1, 2, 9, 10, 11, 63, 64, 65, 1000, 1001, 65_535, 2**24, least, most}
        odd = st.sampled_from(sorted(value for value in near if least <= value <= most))
        return odd | st.integers(least, most)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        odd_floats = st.sampled_from((*_FLOATS, math.nan, math.inf, -math.inf))
        return odd_floats | st.floats(width=32 if kind == FieldDescriptor.CPPTYPE_FLOAT else 64)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=100) | choice((b"", b"\0" * 100_000))
    return choice(_TEXTS) | st.text(max_size=20).filter(_is_utf8)


@st.composite
def _messages(draw: st.DrawFn, kind: type[_M], usable: Usable) -> _M:
    named = usable.values.get(kind.DESCRIPTOR.full_name)
    if named is not None:
        copy = kind()
        copy.CopyFrom(draw(named))  # it may be drawn again, so it must not be changed
        return copy
    message = kind()
    for field in _fields(message):
        value = _usable_value(draw, field, usable)
        if value is not None:
            _set(message, field, value)
    return message


def _usable_value(draw: st.DrawFn, field: Any, usable: Usable) -> Any:
    named = usable.values.get(field.full_name)
    if named is not None:
        return draw(named)
    if field.message_type is None:
        return None
    # A map gets usable values only from the table.
    if field.message_type.GetOptions().map_entry or not draw(st.booleans()):
        return None
    inner = _message(draw, field, usable)
    return [inner] if _is_repeated(field) else inner


def _message(draw: st.DrawFn, field: Any, usable: Usable) -> Message:
    made: Message = draw(_messages(field.message_type._concrete_class, usable))
    return made


def _spoil(draw: st.DrawFn, message: Message, usable: Usable) -> None:
    fields = _fields(message)
    if not fields:
        return
    field = draw(st.sampled_from(fields))
    if field.message_type is None:
        if draw(st.integers(0, 4)) == 0:
            message.ClearField(field.name)
        elif _is_repeated(field):
            _set(message, field, draw(st.lists(anything(field), max_size=4)))
            if draw(st.booleans()):  # above every limit on their number, but not on bytes
                found = getattr(message, field.name)
                found.extend(list(found[:1]) * (2000 if _is_short(found[:1]) else 20))
        else:
            _set(message, field, draw(anything(field)))
    elif field.message_type.GetOptions().map_entry:
        _spoil_map(draw, getattr(message, field.name), field, usable)
    elif _is_repeated(field):
        _spoil_list(draw, getattr(message, field.name), field, usable)
    elif draw(st.integers(0, 4)) == 0:
        message.ClearField(field.name)
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _spoil(draw, inner, usable)


def _spoil_list(draw: st.DrawFn, found: Any, field: Any, usable: Usable) -> None:
    way = draw(st.sampled_from(("inside", "inside", "empty", "one more", "twice", "many")))
    if way == "empty":
        del found[:]
    elif way == "one more" or not found:
        found.add().CopyFrom(_message(draw, field, usable))
    elif way == "twice":
        found.extend(list(found))
    elif way == "many":
        found.extend([found[0]] * 200)
    else:
        _spoil(draw, found[draw(st.integers(0, len(found) - 1))], usable)


def _spoil_map(draw: st.DrawFn, found: Any, field: Any, usable: Usable) -> None:
    key = field.message_type.fields_by_name["key"]
    value = field.message_type.fields_by_name["value"]
    names = usable.values.get(key.full_name, anything(key)) | anything(key)
    name = draw(names)
    if value.message_type is None:
        found[name] = draw(anything(value))
    else:
        _spoil(draw, found[name], usable)


def _set(message: Message, field: Any, value: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key, inner in value.items():
            getattr(message, field.name)[key].CopyFrom(inner)
    elif _is_repeated(field):
        message.ClearField(field.name)
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _fields(message: Message) -> list[Any]:
    return list(message.DESCRIPTOR.fields)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _is_short(values: Sequence[Any]) -> bool:
    return all(len(value) < 100 for value in values if isinstance(value, str | bytes))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
