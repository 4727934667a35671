"""Reads the file of `limelens watch`: its sections, and what is wrong with it, line by line.

Paths in it are relative to its folder. A variable such as LIMELENS_WATCH_SERVER__ADDRESS goes
before the file, so that one file serves several machines. It opens no camera and no connection.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from limelens.serve.errors import LimelensError
from limelens.serve.wording import listed
from limelens.watch.cameras.config_errors import messages, reasons
from limelens.watch.cameras.delivery import TERMINAL
from limelens.watch.cameras.key_lines import Key, key_lines
from limelens.watch.cameras.settings import CameraSettings, ServerSettings
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.record.settings import RecordSettings
from limelens.watch.sinks.jsonl import JsonlSettings
from limelens.watch.sinks.mqtt_settings import MqttSettings
from limelens.watch.sinks.webhook_settings import WebhookSettings

_PREFIX: Final = "LIMELENS_WATCH_"
_INSTEAD: Final = (("server", "model"), ("password_file", "password_env"))
"""Of these a camera has one, so that its own goes before another of [defaults]."""
_RESERVED: Final = (TERMINAL, "jsonl", "mqtt", "record")
"""Names of sinks that no webhook may have."""
_TOML_ERROR: Final = re.compile(r"(?P<reason>.*) \(at line (?P<line>\d+)(?P<more>, column \d+)\)")
_MOST_ERRORS: Final = 10
_MAX_BYTES: Final = 4 << 20

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
    jsonl: JsonlSettings | None = Field(default=None, description="lines of JSON in a file")
    webhook: tuple[WebhookSettings, ...] = Field(default=(), description="a receiver over HTTP")
    mqtt: MqttSettings | None = Field(default=None, description="a broker of MQTT")
    record: RecordSettings | None = Field(default=None, description="the record of events")
    console: ConsoleSettings | None = Field(default=None, description="the guard's page")
    camera: tuple[CameraSettings, ...] = Field(description="a camera")

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
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path}: more than {_MAX_BYTES} bytes; expected a file of cameras")
        text = data.decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file in TOML") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected TOML") from None
    except RecursionError:
        raise ConfigError(f"{path}: too many brackets within brackets; expected TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}{_of_toml(error)}; expected TOML") from None
    defaults = values.pop("defaults", {})
    cameras = values.get("camera", [])
    if isinstance(defaults, dict) and isinstance(cameras, list):
        values["camera"] = [_with_defaults(one, defaults) for one in cameras]
    try:
        found = _beside(WatchConfig(**values), path.resolve().parent)
        wrong = list(_contradictions(found))
    except SettingsError as error:
        raise ConfigError(f"the environment, {_PREFIX}…: {error}; expected JSON") from None
    except ValidationError as error:
        wrong = reasons(error, WatchConfig)
    if wrong:
        shown = messages(wrong, path, key_lines(text), _PREFIX)
        raise ConfigError(listed(shown, "\n", _MOST_ERRORS))
    return found


def _contradictions(config: WatchConfig) -> Iterator[tuple[Key, str]]:
    """What is wrong with values that are right by themselves: their keys, and why."""
    if not config.camera:
        yield ("camera",), "there is no camera; expected [[camera]] with id and source"
    seen = set()
    for number, camera in enumerate(config.camera):
        if camera.id.casefold() in seen:
            yield (
                ("camera", number, "id"),
                f"{camera.id!r} is another camera's; expected one of its own",
            )
        seen.add(camera.id.casefold())
    taken = [name for name in ("jsonl", "mqtt", "record") if getattr(config, name) is not None]
    spools = set()
    for number, webhook in enumerate(config.webhook):
        if webhook.name in (*taken, *_RESERVED):
            yield ("webhook", number, "name"), f"{webhook.name!r} is taken; expected another"
        if webhook.spool in spools:
            yield (
                ("webhook", number, "spool"),
                "it is another webhook's; expected a folder of its own",
            )
        taken.append(webhook.name)
        spools.add(webhook.spool)
    for number, camera in enumerate(config.camera):
        for name in camera.sinks or ():
            if name not in taken:
                expected = f"one of {', '.join(taken)}" if taken else "a section such as [record]"
                yield (
                    ("camera", number, "sinks"),
                    f"no sink is called {name!r}; expected {expected}",
                )


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
