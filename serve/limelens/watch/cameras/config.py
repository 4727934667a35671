"""Reads the file of `limelens watch`: its sections, and what is wrong with it, line by line.

Paths in it are relative to its folder. A variable such as LIMELENS_WATCH_SERVER__ADDRESS goes
before the file, so that one file serves several machines. It opens no camera and no connection.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from limelens.serve.errors import LimelensError
from limelens.serve.redaction import without_secrets
from limelens.serve.wording import listed
from limelens.watch.cameras.key_lines import Key, key_lines
from limelens.watch.cameras.settings import CameraSettings, ServerSettings
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.record.settings import RecordSettings

_PREFIX: Final = "LIMELENS_WATCH_"
_INSTEAD: Final = (("server", "model"), ("password_file", "password_env"))
"""Of these a camera has one, so that its own goes before another of [defaults]."""
_MAY_BE_SECRET: Final = ("secret", "password", "token", "source", "url", "key")
_TOML_ERROR: Final = re.compile(r"(?P<reason>.*) \(at line (?P<line>\d+)(?P<more>, column \d+)\)")
_LONGEST: Final = 60
_MOST_ERRORS: Final = 10
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

_Model = TypeVar("_Model", bound=BaseModel)


class ConfigError(LimelensError):
    """The file cannot be used; each line of the message names a line of it, and what is wrong."""


class WatchConfig(BaseSettings):
    """Everything that the file says."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        hide_input_in_errors=True,
    )

    heartbeat_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="repeat each camera's state in so many seconds; 0: never",
    )
    server: ServerSettings = Field(
        default_factory=ServerSettings, description="the server of all cameras"
    )
    record: RecordSettings | None = Field(default=None, description="the record of events")
    console: ConsoleSettings | None = Field(default=None, description="the guard's page")
    camera: tuple[CameraSettings, ...] = Field(description="a camera")

    @field_validator("camera")
    @classmethod
    def _names_differ(cls, value: tuple[CameraSettings, ...]) -> tuple[CameraSettings, ...]:
        if not value:
            raise ValueError("there is no camera; expected [[camera]] with id and source")
        seen: dict[str, int] = {}
        for number, camera in enumerate(value, 1):
            first = seen.setdefault(camera.id.casefold(), number)
            if first != number:
                raise ValueError(
                    f"cameras {first} and {number} are both {camera.id!r}; expected an id of its "
                    "own for each"
                )
        return value

    @field_validator("camera")
    @classmethod
    def _sinks_exist(
        cls, value: tuple[CameraSettings, ...], info: ValidationInfo
    ) -> tuple[CameraSettings, ...]:
        known = _sink_names(info.data)
        for camera in value:
            for name in camera.sinks or ():
                if name not in known:
                    raise ValueError(
                        f"{camera.id} names the sink {name!r}; expected one of "
                        f"{', '.join(known) or 'those of sections that are missing, as [record]'}"
                    )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def read_config(path: Path) -> WatchConfig:
    """Reads the file.

    Raises:
        ConfigError: It cannot be read, or something in it is wrong; the message has a line for
            each error, with the file's name and line, and shows no secret.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file in TOML") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}{_of_toml(error)}; expected TOML") from None
    defaults = values.pop("defaults", {})
    cameras = values.get("camera", [])
    if isinstance(defaults, dict) and isinstance(cameras, list):
        values["camera"] = [_with_defaults(one, defaults) for one in cameras]
    try:
        found = WatchConfig(**values)
    except ValidationError as error:
        lines = key_lines(text)
        reasons = list(dict.fromkeys(sorted(_reasons(error, path, lines))))
        raise ConfigError(listed([text for _, text in reasons], "\n", _MOST_ERRORS)) from None
    return _beside(found, path.resolve().parent)


def _sink_names(values: Mapping[str, Any]) -> list[str]:
    """The names of the sinks that a configuration has."""
    return [name for name in ("record",) if values.get(name) is not None]


def _of_toml(error: tomllib.TOMLDecodeError) -> str:
    """The line and the reason of an error, which says the line in its text alone."""
    found = _TOML_ERROR.fullmatch(str(error))
    return f": {error}" if found is None else f":{found['line']}: {found['reason']}{found['more']}"


def _with_defaults(camera: Any, defaults: Mapping[str, Any]) -> Any:
    if not isinstance(camera, dict):
        return camera
    left_out = {
        name for pair in _INSTEAD for name in pair if any(one in camera for one in pair)
    }  # fmt: skip
    return {key: one for key, one in defaults.items() if key not in left_out} | camera


def _reasons(
    error: ValidationError, path: Path, lines: Mapping[Key, int]
) -> Iterator[tuple[int, str]]:
    """Each error's line, 0 without one, and the message."""
    for one in error.errors(include_url=False):
        key = one["loc"]
        name = ".".join(str(part) for part in key if not isinstance(part, int))
        line, where = _place(key, path, lines)
        yield line, f"{where}: {name}: {_reason(one, key)}"


def _place(key: Key, path: Path, lines: Mapping[Key, int]) -> tuple[int, str]:
    """The file and the line, or the variable, that a value comes from."""
    variable = (_PREFIX + "__".join(map(str, key))).upper()
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


def _reason(error: Any, key: Key) -> str:
    kind, found = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown(key)
    if kind == "missing":
        return f"it is missing; expected {_described(key)}"
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


def _unknown(key: Key) -> str:
    model = _model_at(key[:-1])
    names = [] if model is None else list(model.model_fields)
    if not key[:-1]:
        names.append("defaults")
    near = difflib.get_close_matches(str(key[-1]), names, 1)
    if near:
        return f"there is no such key; did you mean {near[0]}?"
    return f"there is no such key; expected one of {', '.join(names)}"


def _described(key: Key) -> str:
    model = _model_at(key[:-1])
    field = None if model is None else model.model_fields.get(str(key[-1]))
    return "a value" if field is None or not field.description else field.description


def _model_at(key: Key) -> type[BaseModel] | None:
    """The settings that a key leads to; None if it leads to a plain value."""
    model: type[BaseModel] | None = WatchConfig
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


def _beside(model: _Model, folder: Path) -> _Model:
    """The same settings with paths from a folder, at any depth."""
    changed: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changed[name] = folder / value.expanduser()
        elif isinstance(value, BaseModel):
            changed[name] = _beside(value, folder)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            changed[name] = tuple(_beside(one, folder) for one in value)
        elif name == "source":
            changed[name] = _source_beside(value, folder)
    return model.model_copy(update=changed)


def _source_beside(source: SecretStr, folder: Path) -> SecretStr:
    """A source that is the path of a file, from a folder; others stay."""
    text = source.get_secret_value()
    if "://" in text or text.isdecimal() or text == "-":
        return source
    return SecretStr(str(folder / Path(text).expanduser()))
