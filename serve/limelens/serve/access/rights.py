"""The rights of callers, and which right each method needs, by the method's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final


class Right(StrEnum):
    """A group of methods."""

    CLASSIFY = "classify"
    EMBED = "embed"
    EXPLAIN = "explain"
    MODELS = "models"
    ADMIN = "admin"


ALL_RIGHTS: Final = frozenset(Right)
OPEN: Final = None  # no right: anybody may call

_SERVICES: Final[Mapping[str, Mapping[str, Right | None]]] = {
    "limelens.v1.ClassifierService": {
        "Classify": Right.CLASSIFY,
        "ClassifyStream": Right.CLASSIFY,
        "Embed": Right.EMBED,
        # A right of their own: explanations show an attacker where to change an image.
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
    """The right that a method needs.

    Args:
        method: Such as `/limelens.v1.ClassifierService/Embed`.

    Returns:
        The right; `OPEN` if anybody may call. Methods that are not listed need `admin`.
    """
    service, _, name = method.lstrip("/").partition("/")
    return _SERVICES.get(service, {}).get(name, Right.ADMIN)


def read_rights(words: Iterable[str]) -> frozenset[Right]:
    """Rights by their names."""
    words = list(words)
    unknown = [word for word in words if word not in ALL_RIGHTS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a right; expected some of {', '.join(Right)}")
    return frozenset(map(Right, words))
