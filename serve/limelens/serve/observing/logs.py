"""Sets up a process's log: lines for people or JSON, each with the call that it belongs to.

The level applies to limelens only: at DEBUG, other libraries log what they read in images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

from pythonjsonlogger.json import JsonFormatter

from limelens.serve.call_context import current_call

LogFormat = Literal["text", "json"]

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_FIELDS: Final = ["levelname", "name", "message"]
_CONTROL: Final = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_CONTROL[0x2028] = "\\u2028"
_CONTROL[0x2029] = "\\u2029"


def set_up_logs(
    level: int,
    log_format: LogFormat = "text",
    *,
    worker: int | None = None,
    device: str | None = None,
) -> None:
    """Logs to stderr, unless logging is set up already.

    Args:
        level: The lowest level for limelens; for other libraries it is at least INFO.
        log_format: `text` writes lines for people, `json` an object on each line.
        worker: This process's number if several share a port.
        device: The device that this process owns for others.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            _FIELDS, timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
        )
        if log_format == "json"
        else _Line(_TEXT)
    )
    handler.addFilter(_is_wanted)
    handler.addFilter(_AddFields({"worker": worker, "device": device}))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)  # otherwise libraries would print theirs unformatted


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO or record.name.partition(".")[0] == "limelens"


class _AddFields(logging.Filter):
    """Adds what the process is and the current call's fields to each line; drops none."""

    def __init__(self, process: Mapping[str, object]) -> None:
        super().__init__()
        self._fields = {name: value for name, value in process.items() if value is not None}

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        fields: dict[str, Any] = dict(self._fields)
        if call is not None and not hasattr(record, "request_id"):
            fields |= call.fields()
        for name, value in fields.items():
            setattr(record, name, value)
        record.__dict__["_tag"] = fields
        return True


class _Line(logging.Formatter):
    """One line for people, with control characters of names escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record).translate(_CONTROL)
        tag = record.__dict__.get("_tag")
        if not tag:
            return text
        return f"{text} ({', '.join(f'{name} {value}' for name, value in tag.items())})"
