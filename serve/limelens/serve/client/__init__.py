"""The client: images in, plain results out, over gRPC.

`Client` blocks, `AsyncClient` is for asyncio; `calls` is what both do, `bulk` cuts many images into
requests, `feeding` keeps a camera's frames, `connection` holds the settings. The client needs
neither onnxruntime nor scikit-image, and does not know the model.
"""

from __future__ import annotations

from limelens.serve.client.asynchronous import AsyncClient
from limelens.serve.client.blocking import Client
from limelens.serve.client.connection import ConnectArguments, Connection, Tls, Token
from limelens.serve.client.requests import (
    CallArguments,
    ClassifyArguments,
    Drawn,
    EmbedArguments,
    ExplainArguments,
    Frame,
    Hide,
    ImageInput,
    Method,
    SegmentationMethod,
    StreamArguments,
    explain_request,
)
from limelens.serve.faces.options import FaceOptions

__all__ = [
    "AsyncClient",
    "CallArguments",
    "ClassifyArguments",
    "Client",
    "ConnectArguments",
    "Connection",
    "Drawn",
    "EmbedArguments",
    "ExplainArguments",
    "FaceOptions",
    "Frame",
    "Hide",
    "ImageInput",
    "Method",
    "SegmentationMethod",
    "StreamArguments",
    "Tls",
    "Token",
    "explain_request",
]
