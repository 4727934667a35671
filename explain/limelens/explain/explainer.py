"""One image explained, in the order of LIME's paper: cut, draw, perturb, predict, fit.

Knows the order of the steps. Does not know how any of them is done, what serves the model, or the
labels' names.

    Ribeiro, Singh, Guestrin: "Why Should I Trust You?", KDD 2016. https://arxiv.org/abs/1602.04938
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from limelens.explain.explanation import Explanation, LabelExplanation, Samples, Timings
from limelens.explain.image import as_rgb
from limelens.explain.sampling.baseline import hidden_probabilities
from limelens.explain.sampling.design import design_for, effective_samples
from limelens.explain.sampling.perturbation import perturbation
from limelens.explain.sampling.prediction import (
    Predict,
    Predictions,
    predict_whole,
    references_of,
)
from limelens.explain.sampling.references import references_for
from limelens.explain.segmentation.cutting import segment
from limelens.explain.settings import ExplainOptions, Settings
from limelens.explain.surrogate.fit import fit_labels
from limelens.explain.warning import ExplanationWarning, WarningKind

_FIRST_ROUND = 128
_GROWTH = 1.5
_FEW_SEGMENTS = 8
_FEW_SAMPLES = 4  # per segment
_POOR_SCORE = 0.3
# In probability. On faces of the shipped model, weights are below the first where a fill leaves a
# mask a mask, and above the second where the strongest segment lies on it.
_TINY_WEIGHT, _SMALL_WEIGHT = 0.01, 0.05
_LITTLE_EFFECT = 0.15
_CLEAR = 2.0  # standard errors


def explain(
    image: Any,
    predict: Predict,
    settings: Settings | None = None,
    **options: Unpack[ExplainOptions],
) -> Explanation:
    """Explain a classifier's prediction for one image.

    Args:
        image: `(H, W, 3)` RGB or `(H, W)` grey pixels, uint8, of the size that the model sees.
        predict: `(N, H, W, 3)` uint8 -> `(N, C)` probabilities. An integer attribute
            `max_concurrency` above 1 allows that many threads to call it at once; the result stays
            the same. `limelens.explain.sampling.prediction` names its other optional attributes.
        settings: How to explain; unset: all defaults.
        **options: Fields of `Settings`, which documents them; they replace those of `settings`.

    Returns:
        The explanation.

    Raises:
        InvalidArgumentError: An argument cannot be used; the error names it.
        UnknownLabelError: `predict` has no such label.
        PredictionError: `predict` returned a wrong shape or non-finite numbers.
        MissingPackageError: Scikit-image, or scikit-learn for "lasso_path", is not installed.
        Exception: Any error of `predict`, `progress` or `check`, once no thread is running.
    """
    settings = _settings(settings, options)
    *_, last = _explanations(image, predict, settings, in_rounds=settings.stability is not None)
    return last


def explain_progressively(
    image: Any,
    predict: Predict,
    settings: Settings | None = None,
    **options: Unpack[ExplainOptions],
) -> Iterator[Explanation]:
    """Explain in rounds: each element is a usable explanation from more samples than the last.

    Takes what `explain` takes and raises what it raises: settings are checked at once, the image
    and the labels with the first element. The last element equals what `explain` returns for the
    same arguments and seed; if the deadline passed between rounds it repeats the one before with a
    warning. Closing the iterator stops the work.
    """
    return _explanations(image, predict, _settings(settings, options), in_rounds=True)


def _settings(settings: Settings | None, options: ExplainOptions) -> Settings:
    return Settings(**options) if settings is None else replace(settings, **options)


def _explanations(
    image: Any, predict: Predict, settings: Settings, *, in_rounds: bool
) -> Iterator[Explanation]:
    clock = _Clock()
    deadline = None
    if settings.deadline_ms is not None:
        deadline = (settings.started_at or clock.started) + settings.deadline_ms / 1000
    settings.check()
    pixels = as_rgb(image)
    seed, state = _randomness(settings)
    segmentation = segment(pixels, settings, seed or 0)
    settings.check()
    clock.lap("segment")

    num_segments = segmentation.num_segments
    design = design_for(settings, num_segments, seed, state)
    num_samples = design.visible.shape[0]
    references = _references(predict, pixels, settings)
    perturbed = perturbation(
        pixels,
        segmentation,
        settings.hide,
        num_samples=num_samples,
        sampling=design.sampling,
        seed=seed or 0,
        truncate=settings.like_lime,
        references=references,
    )
    settings.check()
    predictions = Predictions(predict, perturbed, design.visible, settings)
    same_for_all_seeds = design.complete and perturbed.fill.corners is None
    rounds = [num_samples]
    if in_rounds and not same_for_all_seeds:
        rounds = _rounds(num_samples, num_segments, predictions.batch_size, settings.fills_per_row)
    hidden: NDArray[np.floating] | None = None
    for target in rounds:
        predictions.advance(target, deadline)
        if hidden is None:
            hidden = hidden_probabilities(predict, perturbed, design.visible, predictions, settings)
        clock.lap("predict")
        num_done = predictions.num_done
        is_late = num_done < target
        samples = Samples(
            visible=design.visible[:num_done],
            probabilities=predictions.probabilities,
            weights=design.weights[:num_done],
            columns=segmentation.ids,
            alpha=settings.alpha,
            method=settings.method,
            sampling=design.sampling,
            exact=same_for_all_seeds and not is_late,
            hidden=hidden,
            num_fills=settings.fills_per_row,
        )
        labels = _labels_to_explain(settings, samples.probabilities[0])
        explanations = fit_labels(samples, labels, settings)
        is_stable = settings.stability is not None and settings.stability <= min(
            one.stability for one in explanations
        )
        clock.lap("fit")
        yield Explanation(
            image_size=(pixels.shape[0], pixels.shape[1]),
            segments=segmentation.labels,
            num_segments=num_segments,
            num_samples=num_done,
            max_samples=num_samples,
            is_final=is_late or is_stable or target == num_samples,
            seed=seed,
            explanations=explanations,
            warnings=(
                *segmentation.warnings,
                *_warnings(settings, samples, explanations, num_samples, is_late=is_late),
            ),
            timings_ms=clock.timings(),
            samples=samples,
            hide=settings.hide,
            references=references,
        )
        clock.resume()
        if is_late or is_stable:
            return


class _Clock:
    """Time spent by stage; the time between two explanations belongs to the reader."""

    def __init__(self) -> None:
        self.started = self._last = time.monotonic()
        self._spent = {"segment": 0.0, "predict": 0.0, "fit": 0.0}

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self._spent[stage] += 1000 * (now - self._last)
        self._last = now

    def resume(self) -> None:
        self._last = time.monotonic()

    def timings(self) -> Timings:
        return Timings(**self._spent, total=sum(self._spent.values()))


def _randomness(settings: Settings) -> tuple[int | None, np.random.RandomState | None]:
    """The seed, unless the caller gave a stream, and lime's stream in compat mode."""
    seed = settings.seed
    state = None
    if isinstance(seed, np.random.RandomState):
        seed, state = None, seed
    elif seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if settings.like_lime:
        state = state or np.random.RandomState(seed)
        state.randint(0, 1000)  # lime draws a seed for its segmentation, which ignores it
    return seed, state


def _references(
    predict: Predict, pixels: NDArray[np.uint8], settings: Settings
) -> NDArray[np.uint8] | None:
    """The reference images, if the settings hide segments by them."""
    if settings.hide != "references":
        return None
    known = settings.references
    if known is None:
        known = references_of(predict)
    return references_for(predict_whole(predict, pixels), known, pixels.shape[:2])


def _rounds(num_samples: int, num_segments: int, batch_size: int, num_fills: int) -> list[int]:
    """Growing numbers of samples, up to all of them.

    Each round but the last ends where a batch ends, so that the batches are the same however many
    rounds there are: many models round batches of other sizes differently. Each ends with a whole
    row, predicted in all its fills, and so that pairs stay together.
    """
    step = math.lcm(batch_size, 2 * num_fills)
    rounds: list[int] = []
    size = float(max(_FIRST_ROUND, _FEW_SAMPLES * num_segments * num_fills))
    while (target := math.ceil(size / step) * step) < num_samples:
        if not rounds or target > rounds[-1]:
            rounds.append(target)
        size *= _GROWTH
    return [*rounds, num_samples]


def _labels_to_explain(settings: Settings, probabilities: NDArray[np.floating]) -> tuple[int, ...]:
    if settings.labels is not None:
        return tuple(settings.labels)
    if settings.like_lime:
        return tuple(np.argsort(probabilities)[::-1][: settings.top_labels or 5].tolist())
    return tuple(np.argsort(-probabilities, kind="stable")[: settings.top_labels or 1].tolist())


def _says_little(one: LabelExplanation) -> WarningKind | None:
    """Why the weights say next to nothing, if they do."""
    if not one.weights or one.baseline is None:
        return None
    strongest = one.weights[0]
    size = abs(strongest.weight)
    if abs(one.probability - one.baseline) < _LITTLE_EFFECT and size < _SMALL_WEIGHT:
        return WarningKind.LITTLE_EFFECT
    if size < max(_TINY_WEIGHT, _CLEAR * strongest.std_error):
        return WarningKind.WEAK_WEIGHTS
    return None


def _warnings(
    settings: Settings,
    samples: Samples,
    explanations: tuple[LabelExplanation, ...],
    max_samples: int,
    *,
    is_late: bool,
) -> list[ExplanationWarning]:
    found: list[ExplanationWarning] = []

    def warn(kind: WarningKind, label: int | None = None, **numbers: Any) -> None:
        found.append(ExplanationWarning(kind, label, numbers))

    num_samples, num_segments = samples.visible.shape
    num_fills, rows = samples.num_fills, samples.by_row()
    counts = {"num_samples": num_samples, "num_segments": num_segments}
    if num_segments == 1:
        warn(WarningKind.SINGLE_SEGMENT)
    elif num_segments < _FEW_SEGMENTS:
        warn(WarningKind.FEW_SEGMENTS, num_segments=num_segments)
    if not samples.exact and samples.method != "occlusion":
        enough = _FEW_SAMPLES * num_segments * num_fills
        if num_samples < enough:
            warn(WarningKind.FEW_SAMPLES, **counts, enough=enough)
        elif samples.method == "lime" and (effective := effective_samples(rows.weights)) < min(
            num_segments + 1, rows.weights.size / 10
        ):
            warn(
                WarningKind.NARROW_KERNEL,
                **counts,
                effective=effective,
                kernel_width=settings.kernel_width,
                distance=settings.distance,
            )
    for one in explanations:
        column = samples.probabilities[:, one.label]
        if column.max() - column.min() <= 1e-6 * abs(one.probability):
            warn(WarningKind.CONSTANT, one.label, probability=one.probability)
            continue
        if (empty := _says_little(one)) is not None:
            other = "shuffle" if settings.hide == "blur" else "blur"
            strongest = one.weights[0]
            warn(
                empty,
                one.label,
                probability=one.probability,
                baseline=one.baseline,
                weight=strongest.weight,
                std_error=strongest.std_error,
                other=other,
            )
        if one.score < _POOR_SCORE:
            warn(WarningKind.POOR_FIT, one.label, score=one.score)
        is_last = is_late or num_samples == max_samples
        if settings.stability is not None and one.stability < settings.stability and is_last:
            numbers = {
                "stability": one.stability,
                "target": settings.stability,
                "num_samples": num_samples,
            }
            if one.ties:
                tied = ", ".join(map(str, one.ties))
                warn(WarningKind.TIED, one.label, **numbers, ties=tied, top_k=one.top_k)
            else:
                warn(WarningKind.UNSTABLE, one.label, **numbers)
    if is_late:
        numbers = {"num_samples": num_samples, "max_samples": max_samples}
        warn(WarningKind.DEADLINE, **numbers, deadline_ms=settings.deadline_ms)
    return found
