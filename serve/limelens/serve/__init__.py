"""Serves bundles over gRPC, and calls servers: the public names of this part.

Most names load on first use, so that a client needs neither onnxruntime nor scikit-image.
docs/stability.md says which names stay.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.errors import (
    AccessPolicyError,
    BundleError,
    ExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    LimelensError,
    ListenError,
    MalformedMessageError,
    MissingExtraError,
    MissingFileError,
    ModelOutputError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    ServerError,
    SigningError,
    UnauthenticatedError,
    UnavailableError,
    UnreadableFileError,
)

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle, load_bundle
    from limelens.serve.client import AsyncClient, Client, Frame, Tls
    from limelens.serve.client.results import (
        ChangeExplanation,
        Classification,
        Embeddings,
        ExplanationUpdate,
        FrameAnswer,
        ImageFailure,
        LabelExplanation,
        LabelInfo,
        ModelInfo,
        ModelRef,
        PartialClassification,
        SegmentWeight,
        ServedExplanation,
        Timings,
    )
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.image import Region
    from limelens.serve.rpc.server import Server
    from limelens.serve.rpc.server_config import ServerConfig

    __version__: str

__all__ = [
    "AccessPolicyError",
    "AsyncClient",
    "Bundle",
    "BundleError",
    "ChangeExplanation",
    "Classification",
    "Client",
    "Embeddings",
    "ExpiredError",
    "ExplanationUpdate",
    "Frame",
    "FrameAnswer",
    "ImageFailure",
    "ImageTooLargeError",
    "InvalidImageError",
    "InvalidRequestError",
    "LabelExplanation",
    "LabelInfo",
    "LimelensError",
    "ListenError",
    "MalformedMessageError",
    "MissingExtraError",
    "MissingFileError",
    "ModelInfo",
    "ModelOutputError",
    "ModelRef",
    "NotFoundError",
    "NotOfferedError",
    "OverloadedError",
    "PartialClassification",
    "PermissionDeniedError",
    "Prediction",
    "ProviderError",
    "Region",
    "SegmentWeight",
    "ServedExplanation",
    "Server",
    "ServerConfig",
    "ServerError",
    "SigningError",
    "Timings",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "UnreadableFileError",
    "__version__",
    "load_bundle",
]

# onnxruntime reads this when it is imported, and from 1.29 on sends usage events to its maker
# unless it is set. Only this package and `limelens.train` import onnxruntime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Modules of the names that load on first use; all others are results of the client.
_HOMES: Final = {
    "AsyncClient": "client",
    "Bundle": "bundle",
    "Client": "client",
    "Frame": "client",
    "Region": "image",
    "Server": "rpc.server",
    "ServerConfig": "rpc.server_config",
    "Tls": "client",
    "load_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from limelens.serve.about import package_version

        return package_version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'client.results')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
