"""Bundle in, answers out: sessions, batching, the gRPC server and its client.

The names below load on first use, so that the client needs neither onnxruntime nor
scikit-image.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle, load_bundle
    from limelens.serve.client import AsyncClient, Client
    from limelens.serve.errors import LimelensError
    from limelens.serve.image import Region

__all__ = ["AsyncClient", "Bundle", "Client", "LimelensError", "Region", "load_bundle"]

# Read when onnxruntime is imported, which happens in none but our own modules and those of
# `limelens.train`: from 1.29 on it sends usage events to its maker unless this is set.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOMES = {
    "AsyncClient": "client",
    "Bundle": "bundle",
    "Client": "client",
    "LimelensError": "errors",
    "Region": "image",
    "load_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
