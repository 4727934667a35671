"""Serves bundles over gRPC, and calls servers: the public names of this part.

Most names load on first use, so that a client needs neither onnxruntime nor scikit-image.
docs/stability.md says which names stay.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.errors import AccessPolicyError as AccessPolicyError
from limelens.serve.errors import BundleError as BundleError
from limelens.serve.errors import ExpiredError as ExpiredError
from limelens.serve.errors import ImageTooLargeError as ImageTooLargeError
from limelens.serve.errors import InvalidImageError as InvalidImageError
from limelens.serve.errors import InvalidRequestError as InvalidRequestError
from limelens.serve.errors import LimelensError as LimelensError
from limelens.serve.errors import ListenError as ListenError
from limelens.serve.errors import MalformedMessageError as MalformedMessageError
from limelens.serve.errors import MissingExtraError as MissingExtraError
from limelens.serve.errors import MissingFileError as MissingFileError
from limelens.serve.errors import ModelOutputError as ModelOutputError
from limelens.serve.errors import NotFoundError as NotFoundError
from limelens.serve.errors import NotOfferedError as NotOfferedError
from limelens.serve.errors import OverloadedError as OverloadedError
from limelens.serve.errors import PermissionDeniedError as PermissionDeniedError
from limelens.serve.errors import ProviderError as ProviderError
from limelens.serve.errors import ServerError as ServerError
from limelens.serve.errors import SigningError as SigningError
from limelens.serve.errors import UnauthenticatedError as UnauthenticatedError
from limelens.serve.errors import UnavailableError as UnavailableError
from limelens.serve.errors import UnreadableFileError as UnreadableFileError

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle as Bundle
    from limelens.serve.bundle import load_bundle as load_bundle
    from limelens.serve.client import AsyncClient as AsyncClient
    from limelens.serve.client import Client as Client
    from limelens.serve.client import FaceOptions as FaceOptions
    from limelens.serve.client import Frame as Frame
    from limelens.serve.client import Tls as Tls
    from limelens.serve.client.results import ChangeExplanation as ChangeExplanation
    from limelens.serve.client.results import Classification as Classification
    from limelens.serve.client.results import Embeddings as Embeddings
    from limelens.serve.client.results import ExplanationUpdate as ExplanationUpdate
    from limelens.serve.client.results import FrameAnswer as FrameAnswer
    from limelens.serve.client.results import ImageFailure as ImageFailure
    from limelens.serve.client.results import LabelExplanation as LabelExplanation
    from limelens.serve.client.results import LabelInfo as LabelInfo
    from limelens.serve.client.results import ModelInfo as ModelInfo
    from limelens.serve.client.results import ModelRef as ModelRef
    from limelens.serve.client.results import PartialClassification as PartialClassification
    from limelens.serve.client.results import SegmentWeight as SegmentWeight
    from limelens.serve.client.results import ServedExplanation as ServedExplanation
    from limelens.serve.client.results import Timings as Timings
    from limelens.serve.decisions.camera_state import CameraState as CameraState
    from limelens.serve.decisions.decision import FacePrediction as FacePrediction
    from limelens.serve.decisions.decision import Prediction as Prediction
    from limelens.serve.image import Region as Region
    from limelens.serve.rpc.server import Server as Server
    from limelens.serve.rpc.server_config import ServerConfig as ServerConfig

    __version__: str

# onnxruntime reads this when it is imported, and from 1.29 on sends usage events to its maker
# unless it is set. Only this package and `limelens.train` import onnxruntime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_MODULES: Final = {
    "bundle": ("Bundle", "load_bundle"),
    "client": ("AsyncClient", "Client", "FaceOptions", "Frame", "Tls"),
    "client.results": (
        "ChangeExplanation", "Classification", "Embeddings", "ExplainSettings", "ExplanationUpdate",
        "FrameAnswer", "ImageFailure", "LabelExplanation", "LabelInfo", "ModelInfo", "ModelRef",
        "PartialClassification", "SegmentWeight", "ServedExplanation", "Timings",
    ),
    "decisions.camera_state": ("CameraState",),
    "decisions.decision": ("FacePrediction", "Prediction"),
    "image": ("Region",),
    "rpc.server": ("Server",),
    "rpc.server_config": ("ServerConfig",),
}  # fmt: skip
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*(name for name in globals() if name.endswith("Error")), *_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from limelens.serve.about import package_version

        return package_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
