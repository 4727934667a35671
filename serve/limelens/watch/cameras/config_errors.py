"""Says what is wrong with settings: where, what was found, what was expected; shows no secret.

It knows pydantic's errors and models, and not which settings there are.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from limelens.serve.redaction import without_secrets
from limelens.watch.cameras.key_lines import Key

_MAY_BE_SECRET: Final = ("secret", "password", "token", "source", "url", "key", "headers")
_LONGEST: Final = 60
_IN_WORDS: Final = {
    "model_type": "a table such as [server]",
    "model_attributes_type": "a table such as [server]",
    "dict_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "a text",
    "path_type": "a text",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}


def reasons(error: ValidationError, root: type[BaseModel]) -> list[tuple[Key, str]]:
    """The keys of what is wrong, and why."""
    found = error.errors(include_url=False)
    inner = {one["loc"][:length] for one in found for length in range(len(one["loc"]))}
    # What is said of a whole follows from what is said of its parts.
    return [(one["loc"], _reason(one, root)) for one in found if one["loc"] not in inner]


def messages(
    wrong: Iterable[tuple[Key, str]], path: Path, lines: Mapping[Key, int], prefix: str
) -> list[str]:
    """Places and reasons in the order of the file, each once.

    Args:
        wrong: Keys and reasons.
        path: The file.
        lines: The lines of its keys.
        prefix: Of variables that go before the file.
    """
    placed = {(*_place(key, path, lines, prefix), _name(key), why) for key, why in wrong}
    return [f"{where}: {name}: {why}" for _, where, name, why in sorted(placed)]


def _name(key: Key) -> str:
    return ".".join(part for part in key if isinstance(part, str))


def _place(key: Key, path: Path, lines: Mapping[Key, int], prefix: str) -> tuple[int, str]:
    """The line, 0 without one, and the file with it or the variable that a value comes from."""
    variable = (prefix + "__".join(map(str, key))).upper()
    if any(name.upper() == variable for name in os.environ):
        return 0, f"the variable {variable}"
    # What a camera does not say itself comes from the defaults.
    ways = [key]
    if key[0] == "camera" and len(key) > 2:
        ways += [("defaults", *key[2:])]
    for left_out in range(len(key)):
        for way in ways:
            shorter = way[: len(way) - left_out]
            if shorter in lines and shorter != ("defaults",):
                return lines[shorter], f"{path}:{lines[shorter]}"
    return 0, str(path)


def _reason(error: Any, root: type[BaseModel]) -> str:
    key, kind, found = error["loc"], error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown(key, root)
    if kind == "missing":
        return f"it is missing; expected {_described(key, root)}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        expected = "letters, digits, _ . and -, at most 64, a letter or digit first"
    else:
        expected = _IN_WORDS.get(kind) or error["msg"].removeprefix("Input should be ")
    return f"found {_shown(key, found)}; expected {expected}"


def _shown(key: Key, value: Any) -> str:
    if any(word in str(part) for part in key for word in _MAY_BE_SECRET):
        return without_secrets(value) if isinstance(value, str) else "something else"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _unknown(key: Key, root: type[BaseModel]) -> str:
    model = _model_at(key[:-1], root)
    names = [] if model is None else list(model.model_fields)
    if not key[:-1]:
        names.append("defaults")
    near = difflib.get_close_matches(str(key[-1]), names, 1)
    if near:
        return f"there is no such key; did you mean {near[0]}?"
    return f"there is no such key; expected one of {', '.join(names)}"


def _described(key: Key, root: type[BaseModel]) -> str:
    model = _model_at(key[:-1], root)
    field = None if model is None else model.model_fields.get(str(key[-1]))
    if field is None or not field.description:
        return "a value"
    # Some sections are described in sentences; here it is the end of one.
    text = field.description.removesuffix(".")
    return text[0].lower() + text[1:]


def _model_at(key: Key, root: type[BaseModel]) -> type[BaseModel] | None:
    """The settings that a key leads to; None if it leads to a plain value."""
    model: type[BaseModel] | None = root
    for part in key:
        if isinstance(part, int):
            continue
        field = None if model is None else model.model_fields.get(part)
        model = None if field is None else _inner_model(field.annotation)
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_model(one) for one in get_args(annotation))
    return next((one for one in inner if one is not None), None)
