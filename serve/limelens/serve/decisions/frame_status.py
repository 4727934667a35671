"""What became of a camera's frame, and of the explanation of a change."""

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
    """Its number is not above that of the frame before."""
    INVALID = "invalid"
    """It is no image that can be read."""
    FAILED = "failed"
    """The model gave no usable answer."""
    LOST = "lost"
    """The connection went down before it was answered; told by the client, not by a server."""
    EXPLANATION = "explanation"
    """No frame is answered: `FrameAnswer.explanation` tells of an earlier change."""
    DECISION_EXPIRED = "decision_expired"
    """No frame is answered: the decision became too old, and is unknown."""


class ChangeStatus(StrEnum):
    """What came of a change of the decision that was to be explained."""

    EXPLAINED = "explained"
    SUPERSEDED = "superseded"
    """A newer change came before its turn."""
    OVERLOADED = "overloaded"
    """The server has too much to do."""
    FAILED = "failed"
    """It cannot be explained."""
    UNFINISHED = "unfinished"
    """The stream ended before it was done."""
