"""Every error of serving, as a caller of the library sees it.

    LimelensError
    ├── InvalidRequestError       what was asked for cannot be: names the field
    │   └── InvalidImageError     the bytes are no image that is read
    │       └── ImageTooLargeError
    ├── NotFoundError             no such model, version or label
    ├── BundleError               the model file is refused
    ├── ProviderError             the device that was asked for is not there
    ├── OverloadedError           come back later
    ├── UnauthenticatedError      no token, or one that is not good (any more)
    ├── PermissionDeniedError     the caller is known and may not do this
    ├── AccessPolicyError         who may call is not said in a way that can be used
    ├── ExpiredError              the deadline passed before the work began
    ├── ModelOutputError          the model gave numbers that are no probabilities
    ├── MalformedMessageError     the bytes are no message of the contract
    ├── SigningError              a key or what it should sign cannot be used
    ├── ListenError               the server may not or cannot listen where it was told to
    ├── UnreadableFileError       a file that the caller named; also an OSError
    │   └── MissingFileError      it is not there; also a FileNotFoundError
    ├── UnavailableError          nobody answers there, or the server is going down
    ├── ServerError               the server failed; it names an id to look up in its log
    ├── NotOfferedError           a call of the contract that this server does not answer
    └── MissingExtraError         a part of limelens is not installed

It knows nothing of gRPC: `limelens.serve.status` turns these into status codes.
"""

from __future__ import annotations


class LimelensError(Exception):
    """Whatever limelens refuses or fails to do; the message is meant for people."""

    def __reduce__(self) -> tuple[object, ...]:
        # As it is, not by calling the class again: some take more than their message.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[LimelensError], args: tuple[object, ...], state: dict[str, object]
) -> LimelensError:
    """An error that comes from another process."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidRequestError(LimelensError):
    """A field of the request has a value that cannot be used.

    Args:
        field: Path of the field, such as `images[2].encoded`.
        description: What was found, what was expected.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class InvalidImageError(InvalidRequestError):
    """The bytes are not an image, or not one of the formats that are read."""

    def __init__(self, description: str, field: str = "") -> None:
        super().__init__(field, description)

    def at(self, field: str) -> InvalidImageError:
        """The same error, naming the field of the request that held the image."""
        return type(self)(self.description, field)


class ImageTooLargeError(InvalidImageError):
    """The image has more pixels than the limit; it was refused before it was decoded."""


class NotFoundError(LimelensError):
    """There is no such model, version or label; the message names those there are."""

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class BundleError(LimelensError):
    """A model file is refused: the message says which file and why."""


class ProviderError(LimelensError):
    """The device that was asked for cannot be used; the message says why."""


class OverloadedError(LimelensError):
    """The queue is full.

    Args:
        message: What is full.
        retry_after_s: When it is worth trying again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnauthenticatedError(LimelensError):
    """The caller showed no token or certificate that is known, or one that has expired."""


class PermissionDeniedError(LimelensError):
    """The caller is known and has no right to do this; the message names the right."""


class AccessPolicyError(LimelensError):
    """A file of clients, keys or certificates cannot be used, or one is missing."""


class ExpiredError(LimelensError):
    """The caller's deadline passed, or the caller left, before the work was done."""


class ModelOutputError(LimelensError):
    """The model's output is not finite, or not of the shape that it must have."""


class MalformedMessageError(LimelensError):
    """The bytes that came are no message of the contract."""


class SigningError(LimelensError):
    """A key, or what it should sign, cannot be used; the message says what is expected."""


class ListenError(LimelensError):
    """The server may not or cannot listen where it was told to; the message says what to do."""


class UnreadableFileError(LimelensError, OSError):
    """A file that the caller named cannot be read; `errno`, `strerror` and `filename` say more.

    Args:
        error: Why.
        expected: What the file should be.
    """

    def __init__(self, error: OSError, expected: str) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self._expected = expected

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}; {self._expected}"


class MissingFileError(UnreadableFileError, FileNotFoundError):
    """A file that the caller named is not there."""


class UnavailableError(LimelensError):
    """Nobody answers there, or the server is going down."""


class ServerError(LimelensError):
    """The server failed in a way that its caller can do nothing about.

    Args:
        message: What the server says of it.
        code: Name of the gRPC status, such as `INTERNAL`.
        request_id: To look up in the server's log; empty where it gave none.
    """

    def __init__(self, message: str, *, code: str = "INTERNAL", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class NotOfferedError(LimelensError):
    """This server does not do what the call asks for; the message says what does."""


class MissingExtraError(LimelensError):
    """A command needs a part of limelens that is not installed; the message names it."""
