"""What callers may be allowed to do, and which of it each method needs.

It knows methods by their names only, those of the Open Inference Protocol included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final


class Right(StrEnum):
    """A group of methods that a caller may call."""

    CLASSIFY = "classify"
    EMBED = "embed"
    EXPLAIN = "explain"
    MODELS = "models"
    ADMIN = "admin"


ALL_RIGHTS: Final = frozenset(Right)
OPEN: Final = None
"""Stands for no right: anybody may call."""

_SERVICES: Final[Mapping[str, Mapping[str, Right | None]]] = {
    "limelens.v1.ClassifierService": {
        "Classify": Right.CLASSIFY,
        "ClassifyStream": Right.CLASSIFY,
        "Embed": Right.EMBED,
        # Explanations show an attacker where to change an image: a right of their own.
        "Explain": Right.EXPLAIN,
        "ExplainStream": Right.EXPLAIN,
        "ListModels": Right.MODELS,
        "GetModel": Right.MODELS,
    },
    "inference.GRPCInferenceService": {
        "ServerLive": OPEN,
        "ServerReady": OPEN,
        "ModelReady": Right.MODELS,
        "ServerMetadata": Right.MODELS,
        "ModelMetadata": Right.MODELS,
        "ModelConfig": Right.MODELS,
        "ModelStatistics": Right.MODELS,
        "RepositoryIndex": Right.MODELS,
        "ModelInfer": Right.CLASSIFY,
        "ModelStreamInfer": Right.CLASSIFY,
        "RepositoryModelLoad": Right.ADMIN,
        "RepositoryModelUnload": Right.ADMIN,
    },
    # Probes have no tokens.
    "grpc.health.v1.Health": {"Check": OPEN, "Watch": OPEN, "List": OPEN},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Right.MODELS},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": Right.MODELS},
}


def needed_right(method: str) -> Right | None:
    """What a caller of a method must be allowed to do.

    Args:
        method: Such as `/limelens.v1.ClassifierService/Embed`.

    Returns:
        The right; None where anybody may call. A method that has no place here needs `admin`.
    """
    service, _, name = method.lstrip("/").partition("/")
    return _SERVICES.get(service, {}).get(name, Right.ADMIN)


def read_rights(words: Iterable[str]) -> frozenset[Right]:
    """Rights by their names.

    Raises:
        ValueError: A word is no right; the message names those there are.
    """
    found = set()
    for word in words:
        try:
            found.add(Right(word))
        except ValueError:
            known = ", ".join(Right)
            raise ValueError(f"{word!r} is no right; expected some of {known}") from None
    return frozenset(found)
