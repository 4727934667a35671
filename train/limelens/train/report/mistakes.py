"""The mistakes that a model was most confident about, each explained by LIME.

It knows evaluations and explanations, and draws no page.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain import ExplainOptions, explain, overlay
from limelens.serve.bundle import Task
from limelens.serve.image import fit, read_image
from limelens.train.data.examples import targets_of
from limelens.train.evaluation.evaluate import Evaluation

_NUM_SAMPLES: Final = 300
_MAX_SIDE_PX: Final = 420
"""Longer side of an image on the page."""


@dataclass(frozen=True)
class Mistake:
    """An image that a model got wrong.

    Args:
        label: The label to explain: predicted wrongly, or missed (multilabel).
        missed: Whether the label is true and was not predicted.
    """

    index: int
    label: int
    missed: bool


def worst_mistakes(evaluation: Evaluation, num_mistakes: int) -> list[Mistake]:
    """The most confident mistakes, at most one per image.

    For multilabel, wrongly predicted and missed labels alternate: rare labels have low
    probabilities, so missed ones would fill the list.
    """
    probabilities, model = evaluation.probabilities, evaluation.model
    targets = targets_of(evaluation.examples, len(model.labels), model.task)
    if model.task is Task.MULTICLASS:
        predicted = probabilities.argmax(axis=1)
        wrong = np.flatnonzero(predicted != targets)
        order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
        return [Mistake(int(i), int(predicted[i]), False) for i in order[:num_mistakes]]
    above = probabilities >= model.label_thresholds
    claimed = _ranked(above & (targets == 0), -probabilities, missed=False)
    missed = _ranked(~above & (targets == 1), probabilities, missed=True)
    chosen: dict[int, Mistake] = {}
    for mistake in chain.from_iterable(zip_longest(claimed, missed)):
        if mistake is not None and len(chosen) < num_mistakes:
            chosen.setdefault(mistake.index, mistake)
    return list(chosen.values())


def _ranked(wrong: NDArray[np.bool_], keys: NDArray[np.floating], *, missed: bool) -> list[Mistake]:
    rows, columns = np.nonzero(wrong)
    order = np.argsort(keys[rows, columns], kind="stable")
    return [Mistake(int(rows[i]), int(columns[i]), missed) for i in order]


def explain_mistake(
    mistake: Mistake, evaluation: Evaluation
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
    """The upright original, sized for the page, its overlay, and R² of the explanation.

    Green segments support the label, red ones oppose it.
    """
    pixels = read_image(evaluation.examples[mistake.index].path.read_bytes())
    model = evaluation.model
    fitted = fit(pixels, model.resize)
    own = ExplainOptions() if model.explain is None else model.explain.options()
    how = ExplainOptions(labels=[mistake.label], num_samples=_NUM_SAMPLES, seed=0)
    found = explain(fitted.pixels, model.predict, **(own | how))
    image = shrunk(pixels, _MAX_SIDE_PX)
    segments = fitted.to_source(found.segments)
    rows, columns = (
        np.arange(small) * large // small
        for small, large in zip(image.shape[:2], pixels.shape[:2], strict=True)
    )
    explanation = found.for_label(mistake.label)
    return image, overlay(image, segments[np.ix_(rows, columns)], explanation), explanation.score


def shrunk(pixels: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """An image shrunk to a longer side; smaller images stay as they are."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_side_px, max_side_px), reducing_gap=3.0)
    return np.asarray(image)
