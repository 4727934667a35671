"""Hides passwords in addresses, which may hold them in nearly any part."""

from __future__ import annotations

import re
from typing import Final

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_END_OF_HOST: Final = re.compile(r"[/?#\\]")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(:[0-9]{1,5})?")
_FILE: Final = re.compile(r"[\w.%+ -]+")


def without_secrets(url: str) -> str:
    """An address without its secrets: scheme, host and port, and `…` for the rest.

    A password may come before an `@`, in the path or in the query. If the host is unclear, only the
    scheme stays.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "…"
    authority = _END_OF_HOST.split(rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    host = authority.rpartition("@")[2]
    if "@" in behind or not _HOST_AND_PORT.fullmatch(host):
        return f"{scheme.lower()}://…"
    return f"{scheme.lower()}://{host}{'/…' if behind.strip('/') else ''}"


def image_address(url: str) -> str:
    """The same for a file on the web, with the file's name."""
    shown = without_secrets(url)
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    name = path.rpartition("/")[2]
    if not shown.endswith("/…") or shown.endswith("://…") or not _FILE.fullmatch(name):
        return shown
    return f"{shown}/{name}" if path.count("/") > 3 else f"{shown.removesuffix('…')}{name}"
