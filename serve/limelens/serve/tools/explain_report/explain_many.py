"""Many images explained, several at a time, in the order given.

Knows files, and whether an error concerns one image or all. Does not know whether a server or this
process explains.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import (
    BundleError,
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from limelens.serve.tools.ordered_prefetch import in_order

if TYPE_CHECKING:
    from limelens.serve.client import Client, ExplainArguments
    from limelens.serve.client.results import ServedExplanation

_LONGEST_WAIT_S: Final = 10.0
_ERRORS_OF_ALL_IMAGES: Final = (
    UnavailableError, UnauthenticatedError, PermissionDeniedError, NotFoundError, MissingExtraError,
    NotOfferedError, BundleError,
)  # fmt: skip
_FIELDS_OF_ONE_IMAGE: Final = ("", "segmentation", "faces", "face")
"""Fields whose errors may concern one image alone: its size, number of segments, or its faces."""


@dataclass(frozen=True)
class LabeledFile:
    """An image to explain, and its true label, if known."""

    path: Path
    true_label: str | None = None


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """The result for one image: a prediction and its explanation, or why it was refused.

    If faces were asked for, the prediction is that of the face that is explained.
    """

    file: LabeledFile
    prediction: Prediction | None
    explanation: ServedExplanation | None
    error: str = ""

    @property
    def is_mistake(self) -> bool | None:
        """Whether the prediction differs from the true label; None if unknown or abstained.

        A multilabel model is right if the true label is among those it gives.
        """
        truth, found = self.file.true_label, self.prediction
        if truth is None or found is None or not (found.label or found.labels):
            return None
        return truth not in (found.labels or (found.label,))


def explain_many(
    client: Client,
    files: Sequence[LabeledFile],
    *,
    num_parallel: int,
    **arguments: Unpack[ExplainArguments],
) -> Generator[ExplainedImage, None, None]:
    """Explains images in their order, and continues after one that is refused.

    Several are explained at a time, so that one is read and segmented while the model runs another.

    Raises:
        LimelensError: As `Client.explain`, if it concerns all images.
    """
    yield from in_order(lambda file: _explained(client, file, arguments), files, num_parallel)


def _explained(client: Client, file: LabeledFile, arguments: ExplainArguments) -> ExplainedImage:
    try:
        data = file.path.read_bytes()
        while True:
            try:
                if arguments.get("faces"):
                    explanation = client.explain(data, **arguments)
                    face = explanation.face
                    return ExplainedImage(
                        file, None if face is None else face.prediction, explanation
                    )
                found = client.classify(
                    data,
                    model=arguments.get("model", ""),
                    version=arguments.get("version", 0),
                    region=arguments.get("region"),
                )
                return ExplainedImage(file, found[0], client.explain(data, **arguments))
            except OverloadedError as error:
                time.sleep(min(error.retry_after_s, _LONGEST_WAIT_S))
    except OSError as error:
        return ExplainedImage(file, None, None, str(error.strerror or error))
    except _ERRORS_OF_ALL_IMAGES:
        raise
    except InvalidRequestError as error:
        if error.field.startswith("image"):
            return ExplainedImage(file, None, None, error.description)
        if error.field in _FIELDS_OF_ONE_IMAGE:
            return ExplainedImage(file, None, None, str(error))
        raise
    except LimelensError as error:
        return ExplainedImage(file, None, None, str(error))
