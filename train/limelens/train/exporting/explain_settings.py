"""Which explanation settings suit a model, by what can be measured without knowing the truth.

Each candidate explains some validation images twice, with two seeds. An explanation is good if the
model follows it: hiding the segments in its order lowers the probability sooner, and showing them
raises it sooner, than in a random order. Knows bundles and images. Does not know how the model was
trained, nor who asks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.explain import Explanation, explain
from limelens.explain.faithfulness import order_areas
from limelens.explain.segmentation.segments import known
from limelens.explain.settings import ExplainOptions, Settings
from limelens.explain.warning import WarningKind
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.errors import LimelensError
from limelens.serve.image import fit, read_image

CANDIDATES: Final = (
    ExplainDefaults(),
    ExplainDefaults(num_segments=24),
    ExplainDefaults(hide=(127, 127, 127)),
    ExplainDefaults(hide="blur"),
    ExplainDefaults(hide="blur", num_segments=24),
    ExplainDefaults(hide="shuffle"),
    ExplainDefaults(hide="shuffle", num_segments=30),
    ExplainDefaults(hide="references"),
    ExplainDefaults(hide="references", num_segments=30),
)
"""What is tried; `references` only where the bundle has golden images."""
NUM_OTHERS: Final = 4
"""How many other images' pixels hide segments where areas are measured: by its own fill, each
candidate would be judged by what it is good at. Only `references` is like that."""
MIN_IMAGES: Final = NUM_OTHERS + 1
"""Fewer say nothing about which candidate is better, and lack others to hide by."""
NUM_SEEDS: Final = 2
_NUM_RANDOM: Final = 4
_PROBE: Final = 16  # predictions that tell how fast the model is
_LITTLE: Final = frozenset(
    {WarningKind.CONSTANT, WarningKind.LITTLE_EFFECT, WarningKind.WEAK_WEIGHTS}
)
_MEASURES: Final = ("deletion", "insertion", "gain", "score", "stability", "little", "ms")


class TuningError(LimelensError):
    """Explanation settings could not be chosen."""


@dataclass(frozen=True)
class Measured:
    """One candidate's figures, each a mean over images with its standard error.

    Attributes:
        settings: The candidate.
        deletion: How much smaller the deletion area is than that of random orders.
        insertion: How much larger the insertion area is.
        gain: The mean of both.
        score: R² of the surrogate.
        stability: The Jaccard index of the strongest segments of two seeds, as measured.
        little: The share of explanations with a warning that they say little.
        ms: Milliseconds for one explanation.
    """

    settings: ExplainDefaults
    deletion: tuple[float, float]
    insertion: tuple[float, float]
    gain: tuple[float, float]
    score: tuple[float, float]
    stability: tuple[float, float]
    little: tuple[float, float]
    ms: tuple[float, float]


@dataclass(frozen=True)
class Tuning:
    """What was measured, and the choice.

    Attributes:
        chosen: The settings, with `why` that holds all of this.
        measured: One for each candidate.
        place: Which of them was chosen.
        num_images: How many images were explained.
        num_samples: In each explanation.
        seconds: It took.
    """

    chosen: ExplainDefaults
    measured: tuple[Measured, ...]
    place: int
    num_images: int
    num_samples: int
    seconds: float


def tune(
    bundle: Bundle,
    images: Sequence[Path],
    *,
    num_samples: int = Settings.num_samples,
    max_s: float = 600.0,
    seed: int = 0,
    candidates: Sequence[ExplainDefaults] = CANDIDATES,
    notify: Callable[[int, int], None] = lambda _done, _all: None,
) -> Tuning:
    """Choose the explanation settings of a bundle.

    The best candidate has the highest mean gain. Of those whose gain is at most one standard error
    (of the differences, image by image) below it, the one whose explanations say little least often
    is chosen; of several such, the one with the best fit. R² decides no more than that, because
    where a fill changes nothing, nothing is fitted well.

    Args:
        bundle: The model.
        images: Files that it was not trained on; unreadable ones are left out. Neighbours in this
            order should differ in their label: they hide each other's segments.
        num_samples: For each explanation.
        max_s: After this many seconds no further image begins.
        seed: Of the samples and the random orders.
        candidates: What to try.
        notify: Called with the number of images done, and of how many.

    Raises:
        TuningError: Fewer than `MIN_IMAGES` images can be explained, or only within a longer time.
    """
    began = time.monotonic()
    if bundle.references is None:
        candidates = [one for one in candidates if one.hide != "references"]
    fitted = _fitted(bundle, images)
    if len(fitted) < MIN_IMAGES:
        raise TuningError(
            f"{len(fitted)} images can be read; expected at least {MIN_IMAGES} to choose "
            "explanation settings by"
        )
    _check_time(bundle, fitted[0], len(candidates) * NUM_SEEDS * num_samples, max_s)
    rows: list[NDArray[np.float64]] = []
    for done, pixels in enumerate(fitted):
        if time.monotonic() - began >= max_s and len(rows) >= MIN_IMAGES:
            break
        others = np.stack([fitted[(done + 1 + i) % len(fitted)] for i in range(NUM_OTHERS)])
        rows.append(
            _measure(bundle, pixels, others, candidates, num_samples, seed + NUM_SEEDS * done)
        )
        notify(done + 1, len(fitted))
    table = np.stack(rows)  # (images, candidates, measures)
    mean, error = table.mean(axis=0), table.std(axis=0, ddof=1) / len(rows) ** 0.5
    measured = tuple(
        Measured(candidate, *((float(m), float(e)) for m, e in zip(means, errors, strict=True)))
        for candidate, means, errors in zip(candidates, mean, error, strict=True)
    )
    place = choose(
        table[..., _MEASURES.index("gain")],
        mean[:, _MEASURES.index("little")],
        mean[:, _MEASURES.index("score")],
    )
    seconds = time.monotonic() - began
    why = {
        "images": len(rows),
        "num_samples": num_samples,
        "seeds": NUM_SEEDS,
        "judged_by": f"{NUM_OTHERS} other images",
        "candidates": [_document(one) for one in measured],
    }
    chosen = replace(candidates[place], why=why)
    return Tuning(chosen, measured, place, len(rows), num_samples, seconds)


def choose(
    gains: NDArray[np.float64], little: NDArray[np.float64], scores: NDArray[np.float64]
) -> int:
    """The candidate to take.

    Args:
        gains: `(images, candidates)`.
        little: `(candidates,)` share of explanations that say little.
        scores: `(candidates,)` mean R².
    """
    best = int(gains.mean(axis=0).argmax())
    below = gains[:, [best]] - gains
    error = below.std(axis=0, ddof=1) / len(gains) ** 0.5
    is_tied = below.mean(axis=0) <= error
    tied = np.flatnonzero(is_tied)
    return int(tied[np.lexsort((-scores[tied], little[tied]))[0]])


def _fitted(bundle: Bundle, images: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """The images as the model sees them, without those that cannot be read."""
    found = []
    for path in images:
        with contextlib.suppress(OSError, LimelensError):
            found.append(fit(read_image(path.read_bytes()), bundle.metadata.resize).pixels)
    return found


def _check_time(bundle: Bundle, pixels: NDArray[np.uint8], num_each: int, max_s: float) -> None:
    """Raises if the model is too slow for the fewest images."""
    several = np.repeat(pixels[np.newaxis], _PROBE, axis=0)
    bundle.predict(several[:1])
    began = time.monotonic()
    bundle.predict(several)
    each_s = (time.monotonic() - began) / _PROBE / bundle.max_concurrency
    needed_s = MIN_IMAGES * num_each * each_s
    if needed_s > max_s:
        raise TuningError(
            f"{MIN_IMAGES} images would take about {needed_s:.0f} seconds on this machine; "
            f"{max_s:.0f} are allowed"
        )


def _measure(
    bundle: Bundle,
    pixels: NDArray[np.uint8],
    others: NDArray[np.uint8],
    candidates: Sequence[ExplainDefaults],
    num_samples: int,
    seed: int,
) -> NDArray[np.float64]:
    """The measures of each candidate on one image, `(candidates, measures)`."""
    label = int(bundle.predict(pixels[np.newaxis])[0].argmax())
    random: dict[tuple[str | None, int | None], NDArray[np.float64]] = {}
    found = []
    for candidate in candidates:
        options = ExplainOptions(num_samples=num_samples) | candidate.options()
        settings = Settings(**(options | ExplainOptions(labels=[label])))
        began = time.monotonic()
        runs = [explain(pixels, bundle.predict, settings, seed=seed + i) for i in range(NUM_SEEDS)]
        ms = 1000 * (time.monotonic() - began) / NUM_SEEDS
        ours = np.mean([_areas(bundle, pixels, one, [_order(one)], others) for one in runs], axis=0)
        cut = candidate.segmentation, candidate.num_segments
        if cut not in random:
            rng = np.random.default_rng([seed, runs[0].num_segments])
            orders = [rng.permutation(runs[0].num_segments) for _ in range(_NUM_RANDOM)]
            random[cut] = _areas(bundle, pixels, runs[0], orders, others)
        deletion, insertion = (random[cut] - ours) * (1, -1)
        warned = np.mean([any(w.kind in _LITTLE for w in one.warnings) for one in runs])
        score = np.mean([one.explanations[0].score for one in runs])
        gain = (deletion + insertion) / 2
        found.append((deletion, insertion, gain, score, _agreement(runs), warned, ms))
    return np.array(found, dtype=np.float64)


def _areas(
    bundle: Bundle,
    pixels: NDArray[np.uint8],
    explanation: Explanation,
    orders: Sequence[NDArray[np.intp]],
    others: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Mean deletion and insertion area over orders."""
    cut = known(explanation.segments, explanation.samples.columns)
    label = explanation.explanations[0].label
    areas = order_areas(pixels, cut, np.stack(orders), bundle.predict, label, others)
    return np.asarray(areas.mean(axis=0))


def _order(explanation: Explanation) -> NDArray[np.intp]:
    """The columns, those that support the label most first."""
    weights = {one.segment: one.weight for one in explanation.explanations[0].weights}
    by_column = [weights.get(int(segment), 0.0) for segment in explanation.samples.columns]
    return np.argsort(-np.array(by_column), kind="stable")


def _agreement(runs: Sequence[Explanation]) -> float:
    first, second = (one.explanations[0] for one in runs)
    a, b = ({w.segment for w in one.weights[: one.top_k]} for one in (first, second))
    return len(a & b) / max(1, len(a | b))


def _document(one: Measured) -> Mapping[str, Any]:
    figures = {name: value for name, value in asdict(one).items() if name in _MEASURES}
    rounded = {name: [round(value, 4) for value in pair] for name, pair in figures.items()}
    settings = {name: value for name, value in one.settings.to_json().items() if name != "why"}
    return {"settings": settings, **rounded}
