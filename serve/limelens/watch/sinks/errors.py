"""Why a sink cannot be used."""

from __future__ import annotations

from limelens.errors import LimelensError


class SinkError(LimelensError):
    """A sink's settings cannot be used; the message says which and what to do."""
