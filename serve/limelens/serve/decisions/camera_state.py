"""What a camera says to whoever acts on it: alert, clear, or unknown and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from limelens.serve.decisions.decision import Decision


class CameraState(StrEnum):
    """What a door may rely on. Whatever is neither `ALERT` nor `CLEAR` is `UNKNOWN`."""

    ALERT = "alert"  # the decision is an alert label
    CLEAR = "clear"  # the decision is another label, or nobody is there
    UNKNOWN = "unknown"  # there is no decision that still holds


class EventType(StrEnum):
    """What kind of news a line is."""

    STATE = "state"  # the state changed, its label did, or another person alerts
    FRAME = "frame"  # a frame was answered
    LOST = "lost"  # the camera or the server was lost
    BACK = "back"  # the camera or the server is back
    HEARTBEAT = "heartbeat"  # the state is as it was


class UnknownReason(StrEnum):
    """Why a camera's state is unknown."""

    STARTING = "starting"  # nothing was decided yet
    ABSTAINED = "abstained"  # the model does not decide on a label
    NOBODY = "nobody"  # nobody is there, where that was asked to count as unknown
    EXPIRED = "expired"  # no frame was classified for too long
    FROZEN = "frozen"  # the camera sends the same frame again and again
    CAMERA_LOST = "camera_lost"  # the camera cannot be read
    SERVER_LOST = "server_lost"  # the server does not answer
    REFUSED = "refused"  # the server refused the stream
    FAILED = "failed"  # the model's output was unusable, or the frame unreadable
    OFF = "off"  # outside its schedule, or stopped

    @property
    def in_words(self) -> str:
        """For people: `the camera cannot be read`."""
        return _WORDS[self]


_WORDS: Final = {
    UnknownReason.STARTING: "nothing was decided yet",
    UnknownReason.ABSTAINED: "the model does not decide on a label",
    UnknownReason.NOBODY: "nobody is there",
    UnknownReason.EXPIRED: "no frame was classified for too long",
    UnknownReason.FROZEN: "the camera sends the same frame again and again",
    UnknownReason.CAMERA_LOST: "the camera cannot be read",
    UnknownReason.SERVER_LOST: "the server does not answer",
    UnknownReason.REFUSED: "the server refused the stream",
    UnknownReason.FAILED: "the frame or the model's output is unusable",
    UnknownReason.OFF: "it is not watched now",
}


def state_of(decision: Decision, *, alert: bool) -> CameraState:
    """The state that a decision over the last frames means, as long as it holds.

    Args:
        decision: Whether it is a label, or unknown, or nobody is there.
        alert: Whether the label is an alert label.
    """
    if decision is Decision.ABSTAINED:
        return CameraState.UNKNOWN
    return CameraState.ALERT if alert else CameraState.CLEAR
