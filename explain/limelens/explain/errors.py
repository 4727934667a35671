"""Every error that explaining can raise.

    LimelensError
    └── ExplainError
        ├── InvalidArgumentError(ValueError)      a value the caller gave; `.argument` names it
        │   └── UnknownLabelError(KeyError)       a label the model or explanation does not have
        ├── PredictionError                       predict returned something unusable
        └── MissingPackageError(ImportError)      an optional package is not installed

Exceptions of `predict` itself pass through unchanged. Nothing here knows gRPC status codes.
"""

from limelens.errors import LimelensError


class ExplainError(LimelensError):
    """Base of every error raised by `limelens.explain`."""


class InvalidArgumentError(ExplainError, ValueError):
    """A value that the caller gave cannot be used.

    Attributes:
        argument: The name of the argument.
        message: What was found and what was expected.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(argument, message)
        self.argument = argument
        self.message = message

    def __str__(self) -> str:
        return self.message


class UnknownLabelError(InvalidArgumentError, KeyError):
    """A label index that the model, or the explanation, lacks."""


class PredictionError(ExplainError):
    """`predict` returned a wrong shape or numbers that are not finite."""


class MissingPackageError(ExplainError, ImportError):
    """An optional package is needed and not installed."""
