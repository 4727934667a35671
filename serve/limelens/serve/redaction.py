"""What people may see of an address: a password may stand in nearly every part of it."""

from __future__ import annotations

import re
from typing import Final

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_END_OF_HOST: Final = re.compile(r"[/?#\\]")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(:[0-9]{1,5})?")
_FILE: Final = re.compile(r"[\w.%+ -]+")


def without_secrets(url: str) -> str:
    """An address as people may see it: scheme, host and port, and a mark for all that follows.

    A password may stand in any other part: before an `@`, in the path, in the query. Where it
    cannot be told which part is the host, the scheme alone is left.
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
    """The same for one file of many on the web: with its name, by which people know it."""
    shown = without_secrets(url)
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    name = path.rpartition("/")[2]
    if not shown.endswith("/…") or shown.endswith("://…") or not _FILE.fullmatch(name):
        return shown
    return f"{shown}/{name}" if path.count("/") > 3 else f"{shown.removesuffix('…')}{name}"
