"""Lines of the log, for people or for machines, each with the call that it belongs to.

It sets up the logging of a process; who writes what is the others' business. The level holds for
limelens alone: other libraries tell at DEBUG what they read in images.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

from pythonjsonlogger.json import JsonFormatter

from limelens.serve.call_context import current

LogFormat = Literal["text", "json"]

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_FIELDS: Final = ["levelname", "name", "message"]
_CONTROL: Final = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_CONTROL[0x2028] = "\\u2028"
_CONTROL[0x2029] = "\\u2029"


def set_up_logs(level: int, log_format: LogFormat = "text", *, worker: int | None = None) -> None:
    """Writes the log of this process to stderr, unless it is set up already.

    Args:
        level: The least that is written of limelens; of others at least INFO.
        log_format: `text` is a line for people, `json` an object a line.
        worker: Its number, where this process is one of several that answer on one port.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            _FIELDS, timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
        )
        if log_format == "json"
        else _Line(_TEXT)
    )
    handler.addFilter(_is_ours_or_loud)
    handler.addFilter(_Placed(worker))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)  # libraries print theirs past every format


def _is_ours_or_loud(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO or record.name.partition(".")[0] == "limelens"


class _Placed(logging.Filter):
    """Puts the worker and the fields of the call that is answered on a line; lets all pass."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._fields = {} if worker is None else {"worker": worker}

    def filter(self, record: logging.LogRecord) -> bool:
        call = current.get()
        fields: dict[str, Any] = dict(self._fields)
        if call is not None and not hasattr(record, "request_id"):
            fields |= call.fields()
        for name, value in fields.items():
            setattr(record, name, value)
        record.__dict__["_tag"] = fields
        return True


class _Line(logging.Formatter):
    """One line for people, whatever a caller put into a name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record).translate(_CONTROL)
        tag = record.__dict__.get("_tag")
        if not tag:
            return text
        return f"{text} ({', '.join(f'{name} {value}' for name, value in tag.items())})"
