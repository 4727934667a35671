"""The errors of `limelens.explain` as those of serving, with the field of the request.

Knows the names of request fields. Does not know messages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from limelens import explain as lime
from limelens.serve.bundle.execution.batch_sizes import is_out_of_memory
from limelens.serve.errors import (
    InvalidRequestError,
    MissingExtraError,
    ModelOutputError,
    OverloadedError,
)

_FIELDS: Final = {
    "segments": "segmentation.segments_png",
    "segmentation_options": "segmentation",
    "max_segments": "segmentation",
}
_log = logging.getLogger(__name__)


@contextmanager
def serving_errors(segmentation_options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turns errors of explaining into errors of serving.

    Args:
        segmentation_options: The request's options; if there is only one, the error names it
            as the field.

    Raises:
        InvalidRequestError: An option cannot be used; the field of the request is named.
        MissingExtraError: A package of `limelens[explain]` is not installed.
        ModelOutputError: The model returned unusable numbers.
        OverloadedError: The device has no memory left.
    """
    try:
        yield
    except lime.MissingPackageError as error:
        raise MissingExtraError(str(error)) from error
    except lime.InvalidArgumentError as error:
        field = _FIELDS.get(error.argument, error.argument)
        if field == "segmentation" and segmentation_options and len(segmentation_options) == 1:
            field = f"segmentation.{next(iter(segmentation_options))}"
        raise InvalidRequestError(field, str(error)) from error
    except lime.PredictionError as error:
        raise ModelOutputError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _log.error("the device has no memory left for an explanation: %s", error)
        raise OverloadedError("the device has no memory left", 1.0) from error
