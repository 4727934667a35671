"""What this package says of itself. It knows the installed distribution, and nothing else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

UNKNOWN: Final = "unknown"
"""The version of a checkout that was not installed: it runs, and nothing may fail for that."""


def package_version() -> str:
    """The installed version of limelens, or `UNKNOWN`."""
    try:
        return version("limelens")
    except PackageNotFoundError:
        return UNKNOWN
