"""The status of a camera's frame, and of the explanation of a change."""

from __future__ import annotations

from enum import StrEnum


class FrameStatus(StrEnum):
    """What became of a camera's frame."""

    CLASSIFIED = "classified"
    SUPERSEDED = "superseded"  # a newer frame came before its turn
    STALE = "stale"  # it was too old when its turn came
    OUT_OF_ORDER = "out_of_order"  # its number is not above the previous frame's
    INVALID = "invalid"  # it is not a readable image
    FAILED = "failed"  # the model's output was unusable
    LOST = "lost"  # the connection was lost before the response; only clients report this
    EXPLANATION = "explanation"
    """No response to a frame: `FrameAnswer.explanation` explains an earlier change."""
    DECISION_EXPIRED = "decision_expired"
    """No response to a frame: the decision became too old, and is unknown."""
    SERVER_LOST = "server_lost"
    """No response to a frame: the connection is lost, and the state unknown until a server answers
    again. Only clients report this, if they reconnect and were given `max_decision_age_s`."""


class ChangeStatus(StrEnum):
    """What became of the explanation of a change."""

    EXPLAINED = "explained"
    SUPERSEDED = "superseded"  # a newer change came before its turn
    OVERLOADED = "overloaded"  # the server is too busy
    FAILED = "failed"  # the change cannot be explained
    UNFINISHED = "unfinished"  # the stream ended before the explanation
