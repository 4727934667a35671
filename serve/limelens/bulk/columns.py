"""The columns that all tables have, and what is written of an image that has no result."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from limelens.bulk.work import BulkImage
from limelens.serve.bundle import Bundle
from limelens.serve.errors import (
    BundleError,
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    ProviderError,
)
from limelens.serve.wording import first_line

UNREADABLE: Final = "UNREADABLE"
"""The code of an image that could not be read at all."""
_OF_ALL_IMAGES: Final = (BundleError, MissingExtraError, ProviderError)
_log = logging.getLogger(__name__)


def schema_of(*columns: pa.Field) -> pa.Schema:
    """The columns of a table: the image's name, its own columns, the model, and what is wrong."""
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            *columns,
            pa.field("model", pa.string(), nullable=False),
            pa.field("version", pa.int32(), nullable=False),
            pa.field("model_digest", pa.string(), nullable=False),
            pa.field("provider", pa.string(), nullable=False),
            pa.field("error_code", pa.string()),
            pa.field("error", pa.string()),
        ]
    )


def fingerprint_of(schema: pa.Schema, **what: Any) -> str:
    """SHA-256, hexadecimal, of a table's columns and of whatever else changes its rows.

    Args:
        schema: The columns.
        what: JSON values, or dataclasses of such.
    """
    written = json.dumps(what, sort_keys=True, default=asdict)
    return hashlib.sha256(f"{written}\n{schema}".encode()).hexdigest()


class Rows:
    """Makes the rows of one model."""

    def __init__(self, bundle: Bundle) -> None:
        self._model = {
            "model": bundle.name,
            "version": bundle.version,
            "model_digest": bundle.digest,
            "provider": bundle.provider,
        }

    def of(self, image: BulkImage, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row of an image with a result."""
        return {"path": image.path, **columns, **self._model}

    def failed(self, image: BulkImage, error: Exception) -> Mapping[str, Any]:
        """The row of an image without a result.

        Raises:
            BundleError, MissingExtraError, ProviderError: No image is to blame.
        """
        if isinstance(error, _OF_ALL_IMAGES):
            raise error
        code, text = _told(image, error)
        return {"path": image.path, **self._model, "error_code": code, "error": text}


def _told(image: BulkImage, error: Exception) -> tuple[str, str]:
    """The code of an error, and what `limelens classify` says of it."""
    if isinstance(error, OSError) and not isinstance(error, LimelensError):
        return UNREADABLE, first_line(error)
    if isinstance(error, InvalidRequestError):
        is_image = error.field.startswith("image")
        return error.grpc_reason, error.description if is_image else str(error)
    if isinstance(error, LimelensError):
        return error.grpc_reason, str(error)
    # One image may not stop a million others.
    _log.error("%s: %s", image.path, error, exc_info=error)
    return LimelensError.grpc_reason, f"{type(error).__name__}: {first_line(error)}"
