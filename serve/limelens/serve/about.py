"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

UNKNOWN: Final = "unknown"
"""The version of a checkout that is not installed, which must work all the same."""


def package_version() -> str:
    """The installed version of limelens, or `UNKNOWN`."""
    try:
        return version("limelens")
    except PackageNotFoundError:
        return UNKNOWN
