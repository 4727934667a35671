"""Why a source cannot be read: a kind for programs and words for people, without secrets.

It knows FFmpeg's errors, and nothing of how a source is opened or found again.
"""

from __future__ import annotations

import errno
import socket
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from limelens.serve.decisions.camera_state import UnknownReason
from limelens.serve.errors import LimelensError


class LossReason(StrEnum):
    """Why a source cannot be read."""

    UNAUTHORIZED = "unauthorized"  # user or password are wrong or missing (401)
    FORBIDDEN = "forbidden"  # this user may not see it (403), or not open the device
    UNKNOWN_HOST = "unknown_host"  # the host's name cannot be resolved
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # there is no way to the host
    TIMEOUT = "timeout"  # it is silent
    NOT_FOUND = "not_found"  # there is no such stream (404) or device
    BUSY = "busy"  # it has no room for another viewer, or cannot serve now
    NO_VIDEO = "no_video"  # what comes is not a video
    ENDED = "ended"  # it closed the connection
    FROZEN = "frozen"  # the same frame comes again and again
    FAILED = "failed"  # anything else


class SourceError(LimelensError):
    """A camera, a video or a folder cannot be read; the message says which and why.

    Args:
        message: For people, without secrets.
        reason: For programs.
    """

    def __init__(self, message: str, reason: LossReason = LossReason.FAILED) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def unknown_reason(self) -> UnknownReason:
        """Why the state of a camera that is lost like this is unknown."""
        is_frozen = self.reason is LossReason.FROZEN
        return UnknownReason.FROZEN if is_frozen else UnknownReason.CAMERA_LOST


_BY_ERRNO: Final = {
    errno.EACCES: LossReason.FORBIDDEN,
    errno.EPERM: LossReason.FORBIDDEN,
    errno.EBUSY: LossReason.BUSY,
    errno.ECONNREFUSED: LossReason.REFUSED,
    errno.ECONNRESET: LossReason.ENDED,
    errno.EPIPE: LossReason.ENDED,
    errno.EHOSTDOWN: LossReason.UNREACHABLE,
    errno.EHOSTUNREACH: LossReason.UNREACHABLE,
    errno.ENETDOWN: LossReason.UNREACHABLE,
    errno.ENETUNREACH: LossReason.UNREACHABLE,
    errno.ENODEV: LossReason.NOT_FOUND,
    errno.ENOENT: LossReason.NOT_FOUND,
    errno.ENXIO: LossReason.NOT_FOUND,
    errno.ETIMEDOUT: LossReason.TIMEOUT,
}
_BY_NAME: Final = {
    "HTTPUnauthorizedError": LossReason.UNAUTHORIZED,
    "HTTPForbiddenError": LossReason.FORBIDDEN,
    "HTTPNotFoundError": LossReason.NOT_FOUND,
    "HTTPTooManyRequestsError": LossReason.BUSY,
    "HTTPServerError": LossReason.BUSY,
    "InvalidDataError": LossReason.NO_VIDEO,
    "EOFError": LossReason.ENDED,
    # What PyAV's own limit of time ends with.
    "ExitError": LossReason.TIMEOUT,
}
"""By the names of PyAV's classes, which is not loaded here."""

_WORDS: Final = {
    LossReason.FORBIDDEN: "this user may not see it (403)",
    LossReason.UNKNOWN_HOST: "nobody knows a host of this name (DNS)",
    LossReason.REFUSED: "connection refused: nothing listens there",
    LossReason.UNREACHABLE: "there is no way to the host; is the network up?",
    LossReason.NOT_FOUND: "it has no such stream (404)",
    LossReason.BUSY: "it answers, but cannot serve now",
    LossReason.ENDED: "it closed the connection",
    LossReason.NO_VIDEO: "what comes is no video that can be decoded",
}


def reason_of(error: Exception, *, opening: str, took_s: float, limit_s: float) -> LossReason:
    """The kind of an error of FFmpeg.

    Args:
        error: What PyAV raised.
        opening: The address that was being opened; empty for anything else.
        took_s: How long it took, in seconds.
        limit_s: After how many seconds of silence FFmpeg gives up; 0 is never.
    """
    found = _BY_NAME.get(type(error).__name__)
    if found is None:
        found = _BY_ERRNO.get(getattr(error, "errno", None) or 0, LossReason.FAILED)
    # Of a silent camera FFmpeg sometimes says that its data are invalid.
    if found is LossReason.NO_VIDEO and limit_s and took_s > 0.9 * limit_s:
        return LossReason.TIMEOUT
    # Of a name that cannot be resolved it says that input or output failed.
    if found is LossReason.FAILED and opening and not _is_resolved(opening):
        return LossReason.UNKNOWN_HOST
    return found


def words_of(
    reason: LossReason, error: Exception, *, is_remote: bool, has_user: bool, limit_s: float
) -> str:
    """The kind in words; for a file those of the operating system or FFmpeg."""
    if reason is LossReason.TIMEOUT and limit_s:
        return f"no answer for {limit_s:g} s"
    if is_remote and reason is LossReason.UNAUTHORIZED:
        if has_user:
            return "it refuses the user or the password (401)"
        return "it asks for a user and a password (401)"
    if is_remote and reason in _WORDS:
        return _WORDS[reason]
    # Not the error itself, which names the address with its password.
    return getattr(error, "strerror", None) or type(error).__name__


def _is_resolved(address: str) -> bool:
    try:
        host = urlsplit(address).hostname
        if host:
            socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    except (OSError, ValueError):
        pass
    return True
