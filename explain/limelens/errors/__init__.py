"""The root of every error that limelens raises.

    LimelensError
    ├── limelens.serve.errors       serving and its clients; the tree is drawn there
    ├── limelens.explain.errors     ExplainError and its subclasses
    └── limelens.train              ArchitectureError, CheckpointError, ConfigError, DataError,
                                    ExportError, FetchError, PrecisionError, RunInUseError,
                                    TrainingError

`except LimelensError` catches all of them. This package imports nothing, so that every part of
limelens may import it.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["LimelensError"]


class LimelensError(Exception):
    """Anything that limelens refuses or fails to do; the message is meant for people."""

    grpc_status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status that a server replies with."""
    grpc_reason: ClassVar[str] = "UNEXPECTED"
    """Reason in the reply's `google.rpc.ErrorInfo`; a client finds the class by it."""

    def __reduce__(self) -> tuple[object, ...]:
        # Restores the attributes instead of calling the class, because some subclasses take
        # other arguments than their message.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[LimelensError], args: tuple[object, ...], state: dict[str, object]
) -> LimelensError:
    """The error that another process pickled."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
