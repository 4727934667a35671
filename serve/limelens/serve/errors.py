"""Every error of serving, as a caller of the library sees it.

    LimelensError
    ├── InvalidRequestError         INVALID_ARGUMENT     a field of the request cannot be used
    │   └── InvalidImageError       INVALID_ARGUMENT     the bytes are not a readable image
    │       └── ImageTooLargeError  INVALID_ARGUMENT     more pixels than the limit
    ├── NotFoundError               NOT_FOUND            no such model, version or label
    ├── OverloadedError             RESOURCE_EXHAUSTED   try again later
    ├── UnauthenticatedError        UNAUTHENTICATED      no valid token or certificate
    ├── PermissionDeniedError       PERMISSION_DENIED    the caller lacks a right
    ├── ExpiredError                DEADLINE_EXCEEDED    the deadline passed before the work ended
    ├── UnavailableError            UNAVAILABLE          no server there, or it is going down
    ├── NotOfferedError             UNIMPLEMENTED        this server does not do that
    ├── MissingExtraError           UNIMPLEMENTED        a part of limelens is not installed
    ├── BundleError                 FAILED_PRECONDITION  the model file is refused
    ├── ProviderError               FAILED_PRECONDITION  the device is not there
    ├── ListenError                 FAILED_PRECONDITION  the server cannot listen at the address
    ├── ModelOutputError            INTERNAL             the model's output is unusable
    ├── MalformedMessageError       INTERNAL             the bytes are not a message of the contract
    │
    │   never sent by a server:
    ├── ServerError                 how a client sees a server's own failure
    ├── AccessPolicyError           a file of clients, keys or certificates cannot be used
    ├── SigningError                a signing key, or the file to sign, cannot be used
    └── UnreadableFileError         a file that the caller named; also an OSError
        └── MissingFileError        it does not exist; also a FileNotFoundError

Each class carries its status by name. `limelens.serve.status` alone turns these classes into
replies and replies into these classes; nothing here imports gRPC.
"""

from __future__ import annotations

from limelens.errors import LimelensError as LimelensError


class InvalidRequestError(LimelensError):
    """A field of the request has a value that cannot be used.

    Args:
        field: Path of the field, such as `images[2].encoded`.
        description: What was found and what was expected.
    """

    grpc_status = "INVALID_ARGUMENT"
    grpc_reason = "INVALID_REQUEST"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class InvalidImageError(InvalidRequestError):
    """The bytes are not an image, or not in a format that limelens reads."""

    grpc_reason = "INVALID_IMAGE"

    def __init__(self, description: str, field: str = "") -> None:
        super().__init__(field, description)

    def at(self, field: str) -> InvalidImageError:
        """The same error, naming the field of the request that held the image."""
        return type(self)(self.description, field)


class ImageTooLargeError(InvalidImageError):
    """The image has more pixels than the limit; it is refused before it is decoded."""

    grpc_reason = "IMAGE_TOO_LARGE"


class NotFoundError(LimelensError):
    """There is no such model, version or label; the message names those that exist."""

    grpc_status = "NOT_FOUND"
    grpc_reason = "NOT_FOUND"

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class OverloadedError(LimelensError):
    """The server has too much to do; a client should retry after `retry_after_s` seconds."""

    grpc_status = "RESOURCE_EXHAUSTED"
    grpc_reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnauthenticatedError(LimelensError):
    """The caller's token or certificate is missing, unknown or expired."""

    grpc_status = "UNAUTHENTICATED"
    grpc_reason = "UNAUTHENTICATED"


class PermissionDeniedError(LimelensError):
    """The caller is known but lacks a right; the message names it."""

    grpc_status = "PERMISSION_DENIED"
    grpc_reason = "PERMISSION_DENIED"


class ExpiredError(LimelensError):
    """The deadline passed, or the caller left, before the work was done."""

    grpc_status = "DEADLINE_EXCEEDED"
    grpc_reason = "EXPIRED"


class UnavailableError(LimelensError):
    """No server answers at the address, or it is going down."""

    grpc_status = "UNAVAILABLE"
    grpc_reason = "UNAVAILABLE"


class NotOfferedError(LimelensError):
    """This server does not do what the call asks for; the message names what does."""

    grpc_status = "UNIMPLEMENTED"
    grpc_reason = "NOT_OFFERED"


class MissingExtraError(LimelensError):
    """A part of limelens that is needed is not installed; the message names it."""

    grpc_status = "UNIMPLEMENTED"
    grpc_reason = "MISSING_EXTRA"


class BundleError(LimelensError):
    """A model file is refused; the message says which file and why."""

    grpc_status = "FAILED_PRECONDITION"
    grpc_reason = "BUNDLE_REFUSED"


class ProviderError(LimelensError):
    """The requested device cannot be used; the message says why."""

    grpc_status = "FAILED_PRECONDITION"
    grpc_reason = "PROVIDER_UNUSABLE"


class ListenError(LimelensError):
    """The server may not, or cannot, listen at its address; the message says what to do."""

    grpc_status = "FAILED_PRECONDITION"
    grpc_reason = "CANNOT_LISTEN"


class ModelOutputError(LimelensError):
    """The model's output is not finite or has the wrong shape."""

    grpc_reason = "MODEL_OUTPUT_NOT_FINITE"


class MalformedMessageError(LimelensError):
    """The bytes are not a message of the contract."""

    grpc_reason = "MALFORMED_MESSAGE"


class ServerError(LimelensError):
    """The server failed, and its caller can do nothing about it.

    Args:
        message: The server's message.
        code: Name of the gRPC status, such as `INTERNAL`.
        request_id: The call's id in the server's log; empty if unknown.
    """

    def __init__(self, message: str, *, code: str = "INTERNAL", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class AccessPolicyError(LimelensError):
    """A file of clients, keys or certificates is missing or cannot be used."""


class SigningError(LimelensError):
    """A signing key, or the file to sign, cannot be used; the message says what is expected."""


class UnreadableFileError(LimelensError, OSError):
    """A file that the caller named cannot be read; `errno`, `strerror` and `filename` say more."""

    def __init__(self, error: OSError, expected: str) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self._expected = expected

    def __reduce__(self) -> tuple[object, ...]:
        # The attributes of an OSError are not in its __dict__.
        error = OSError(self.errno, self.strerror, self.filename)
        return type(self), (error, self._expected)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}; {self._expected}"


class MissingFileError(UnreadableFileError, FileNotFoundError):
    """A file that the caller named does not exist."""
