"""One image tried: classified, then explained with progress, by any client of a server.

It knows the client and what was asked for, and nothing of pages and sessions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from limelens.serve import Classification, Client, LabelExplanation, ModelInfo, ServedExplanation
from limelens.serve.image import read_image
from limelens.watch.console.cut import Cut, as_jpeg
from limelens.watch.console.trying.asked import TIMEOUT_S, Asked


@dataclass(frozen=True)
class Progress:
    """An explanation under way; `stability` is that of the samples so far, 0 to 1."""

    num_samples: int
    max_samples: int
    stability: float


@dataclass(frozen=True, eq=False)
class Tried:
    """An image that was explained.

    Args:
        found: The explanation.
        cut: What is shown of it, and its segments.
        without: The model's probability for the label once the strongest segments are covered;
            None if it is not among the most probable then.
        alone: The same if all others are covered.
        images: Files by name: `frame` is the image, `overlay` the strongest segments, `cut` all of
            them, `without` and `alone` what the model saw for these.
    """

    found: ServedExplanation
    cut: Cut = field(repr=False)
    without: float | None
    alone: float | None
    images: Mapping[str, bytes] = field(repr=False)

    @property
    def one(self) -> LabelExplanation:
        """The label that is explained."""
        return self.found.explanations[0]


def classify(client: Client, image: bytes, asked: Asked) -> Classification:
    """Classifies an image, or each face in it.

    Raises:
        LimelensError: As `Client.classify`.
    """
    return client.classify([image], **asked.to_classify())


def explain(client: Client, image: bytes, asked: Asked) -> Generator[Progress | Tried]:
    """Explains an image: news as the server gets on, and what came of it at last.

    Closing the iterator ends the work at the server.

    Raises:
        LimelensError: As `Client.explain`.
    """
    info: ModelInfo = client.model(asked.model, asked.version, timeout_s=TIMEOUT_S)
    with closing(client.explain_stream(image, **asked.to_explain(info))) as updates:
        for update in updates:
            yield Progress(update.num_samples, update.max_samples, update.stability)
            if update.is_final:
                break
    yield _tried(client, image, update.explanation)


def _tried(client: Client, image: bytes, found: ServedExplanation) -> Tried:
    segments = found.segments()
    assert segments is not None  # they were asked for
    cut = Cut.of(read_image(image), segments)
    one = found.explanations[0]
    covered = [cut.covered(one), cut.covered(one, only=True)]
    checked = client.classify(
        covered,
        model=found.model.name,
        version=found.model.version,
        region=cut.seen,
        timeout_s=TIMEOUT_S,
    )
    without, alone = (
        {score.label: score.probability for score in each.scores}.get(one.label) for each in checked
    )
    images = {
        "frame": cut.pixels,
        "overlay": cut.overlay(one),
        "cut": cut.outlined(),
        "without": covered[0],
        "alone": covered[1],
    }
    return Tried(
        found=found,
        cut=cut,
        without=without,
        alone=alone,
        images={name: as_jpeg(pixels) for name, pixels in images.items()},
    )
