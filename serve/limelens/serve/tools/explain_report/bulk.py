"""Many images explained, several at a time, in the order given.

It knows files, and whom to blame for what fails: an image, or the question that is asked of all.
Who explains, a server or this process, is the client's business.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

from limelens.serve.decisions.decision import Prediction
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    NotFoundError,
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
_OF_A_IMAGE: Final = ("", "segmentation")
"""Fields that one image may be refused for, and the next one not: its bytes in the message, and
the number of segments that it falls into."""


@dataclass(frozen=True)
class Place:
    """An image that is to be explained.

    Args:
        path: Its file.
        true_label: What it shows, where that is known.
    """

    path: Path
    true_label: str | None = None


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """What became of one image.

    Args:
        place: The image.
        prediction: What the model says of it; None where it could not be read.
        explanation: Why; None likewise.
        error: What is wrong with it; empty where nothing is.
    """

    place: Place
    prediction: Prediction | None
    explanation: ServedExplanation | None
    error: str = ""

    @property
    def is_mistake(self) -> bool | None:
        """Whether the model says something else than the true label; None where that is open.

        An answer that abstains is none, and a multilabel model is right where the true label is
        among those it gives.
        """
        truth, said = self.place.true_label, self.prediction
        if truth is None or said is None or not (said.label or said.labels):
            return None
        return truth not in (said.labels or (said.label,))


def explain_many(
    client: Client,
    places: Sequence[Place],
    *,
    at_once: int,
    **arguments: Unpack[ExplainArguments],
) -> Generator[ExplainedImage, None, None]:
    """Explains images, and goes on where one cannot be.

    Args:
        client: Who explains; shared by threads.
        places: The images.
        at_once: How many are asked about at a time, so that one is read and cut while another
            has the model.
        arguments: As for `Client.explain`.

    Yields:
        One for each place, in their order.

    Raises:
        LimelensError: As `Client.explain`, where no single image is to blame.
    """

    def explained(place: Place) -> ExplainedImage:
        return _explained(client, place, arguments)

    yield from in_order(explained, places, at_once)


def _explained(client: Client, place: Place, arguments: ExplainArguments) -> ExplainedImage:
    try:
        data = place.path.read_bytes()
        while True:
            try:
                said = client.classify(
                    data,
                    model=arguments.get("model", ""),
                    version=arguments.get("version", 0),
                    region=arguments.get("region"),
                )
                return ExplainedImage(place, said[0], client.explain(data, **arguments))
            except OverloadedError as error:  # others are served too: it will be our turn
                time.sleep(min(error.retry_after_s, _LONGEST_WAIT_S))
    except OSError as error:
        return ExplainedImage(place, None, None, str(error.strerror or error))
    except (
        UnavailableError,
        UnauthenticatedError,
        PermissionDeniedError,
        NotFoundError,
        MissingExtraError,
    ):
        raise
    except InvalidRequestError as error:
        if error.field.startswith("image"):
            return ExplainedImage(place, None, None, error.description)
        if error.field in _OF_A_IMAGE:
            return ExplainedImage(place, None, None, str(error))
        raise
    except LimelensError as error:
        return ExplainedImage(place, None, None, str(error))
