"""The mistakes that a model was surest of, each with the image of why.

It knows evaluations and explanations, and draws no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain import explain, overlay
from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule, fit, read_image
from limelens.train.data.examples import targets_of
from limelens.train.evaluation.evaluate import Evaluation
from limelens.train.evaluation.model import Answer
from limelens.train.report.predictions import label_thresholds

_NUM_SAMPLES: Final = 300
_MAX_DRAWN: Final = 420
"""Longer side of an image on the page, in pixels."""


@dataclass(frozen=True)
class Mistake:
    """An image that a model got wrong.

    Args:
        index: Of the image in the evaluation.
        label: The label that is explained: predicted wrongly, or missed (multilabel).
        missed: Whether the label is true and was not predicted, though none was in its place.
    """

    index: int
    label: int
    missed: bool


@dataclass(frozen=True, eq=False)
class ExplainedMistake:
    """A mistake with its images.

    Args:
        mistake: Which.
        image: `(H, W, 3)` uint8, upright, for the page.
        overlay: The same size: green speaks for the label, red against it.
        score: R² of the explanation's linear surrogate.
    """

    mistake: Mistake
    image: NDArray[np.uint8]
    overlay: NDArray[np.uint8]
    score: float


def worst_mistakes(evaluation: Evaluation, most: int) -> tuple[Mistake, ...]:
    """The mistakes of the highest confidence, at most one an image.

    For multilabel, labels predicted wrongly and labels missed take turns: probabilities of rare
    labels are so low that those missed would fill the list.

    Args:
        evaluation: What was said.
        most: How many.
    """
    probabilities = evaluation.probabilities
    targets = targets_of(evaluation.examples, len(evaluation.labels), evaluation.task)
    if evaluation.task is Task.MULTICLASS:
        predicted = probabilities.argmax(axis=1)
        wrong = np.flatnonzero(predicted != targets)
        order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
        return tuple(Mistake(int(i), int(predicted[i]), False) for i in order[:most])
    over = probabilities >= label_thresholds(evaluation)
    claimed = _ranked(over & (targets == 0), -probabilities, missed=False)
    missed = _ranked(~over & (targets == 1), probabilities, missed=True)
    chosen: dict[int, Mistake] = {}
    for mistake in chain.from_iterable(zip_longest(claimed, missed)):
        if mistake is not None and len(chosen) < most:
            chosen.setdefault(mistake.index, mistake)
    return tuple(chosen.values())


def _ranked(wrong: NDArray[np.bool_], keys: NDArray[np.floating], *, missed: bool) -> list[Mistake]:
    rows, columns = np.nonzero(wrong)
    order = np.argsort(keys[rows, columns], kind="stable")
    return [Mistake(int(rows[i]), int(columns[i]), missed) for i in order]


def explain_mistakes(
    mistakes: Sequence[Mistake],
    evaluation: Evaluation,
    predict: Answer,
    resize: ResizeRule,
    *,
    hide: str = "mean",
    seed: int = 0,
) -> tuple[ExplainedMistake, ...]:
    """Explains each by LIME, and lays what was found over the upright original.

    Args:
        mistakes: Of the evaluation.
        evaluation: What was said.
        predict: The model's.
        resize: How images are brought to its input.
        hide: What a hidden segment looks like, see `limelens.explain`.
        seed: Of the samples.
    """
    return tuple(
        _explained(mistake, evaluation.examples[mistake.index].path, predict, resize, hide, seed)
        for mistake in mistakes
    )


def _explained(
    mistake: Mistake, path: Path, predict: Answer, resize: ResizeRule, hide: str, seed: int
) -> ExplainedMistake:
    pixels = read_image(path.read_bytes())
    fitted = fit(pixels, resize)
    found = explain(
        fitted.pixels,
        predict,
        labels=[mistake.label],
        num_samples=_NUM_SAMPLES,
        hide=hide,
        seed=seed,
    )
    image = small(pixels)
    segments = fitted.to_source(found.segments)
    rows, columns = (
        np.arange(shown) * whole // shown
        for shown, whole in zip(image.shape[:2], pixels.shape[:2], strict=True)
    )
    one = found.for_label(mistake.label)
    return ExplainedMistake(
        mistake, image, overlay(image, segments[np.ix_(rows, columns)], one), one.score
    )


def small(pixels: NDArray[np.uint8], longer_side: int = _MAX_DRAWN) -> NDArray[np.uint8]:
    """An image shrunk for a page; smaller ones stay as they are."""
    image = Image.fromarray(pixels)
    image.thumbnail((longer_side, longer_side), reducing_gap=3.0)
    return np.asarray(image)
