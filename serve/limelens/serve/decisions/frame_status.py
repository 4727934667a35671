"""The status of a camera's frame, and of the explanation of a change."""

from __future__ import annotations

from enum import StrEnum


class FrameStatus(StrEnum):
    """What became of a camera's frame."""

    CLASSIFIED = "classified"
    SUPERSEDED = "superseded"
    """A newer frame came before its turn."""
    STALE = "stale"
    """It was too old when its turn came."""
    OUT_OF_ORDER = "out_of_order"
    """Its number is not above the previous frame's."""
    INVALID = "invalid"
    """It is not a readable image."""
    FAILED = "failed"
    """The model's output was unusable."""
    LOST = "lost"
    """The connection was lost before the response; only clients report this."""
    EXPLANATION = "explanation"
    """No response to a frame: `FrameAnswer.explanation` explains an earlier change."""
    DECISION_EXPIRED = "decision_expired"
    """No response to a frame: the decision became too old, and is unknown."""


class ChangeStatus(StrEnum):
    """What became of the explanation of a change."""

    EXPLAINED = "explained"
    SUPERSEDED = "superseded"
    """A newer change came before its turn."""
    OVERLOADED = "overloaded"
    """The server is too busy."""
    FAILED = "failed"
    """The change cannot be explained."""
    UNFINISHED = "unfinished"
    """The stream ended before the explanation."""
