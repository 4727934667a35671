"""One image explained, in the order of LIME's paper: cut, perturb, predict, weigh, fit, judge.

Knows the order of the steps. Does not know how any of them is done, what serves the model, nor
what labels are called.

    Ribeiro, Singh, Guestrin: "Why Should I Trust You?", KDD 2016. https://arxiv.org/abs/1602.04938
"""

import inspect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError, UnknownLabelError
from limelens.explain.explanation import Explanation, LabelExplanation, Samples, Timings
from limelens.explain.image import as_rgb
from limelens.explain.sampling import perturbation as neighbourhood
from limelens.explain.sampling.perturbation import Sampling
from limelens.explain.sampling.prediction import Predict, Predictions, Progress, liked_batch_size
from limelens.explain.sampling.proximity import Distance, distances, effective_samples, proximity
from limelens.explain.segmentation import segments as cutting
from limelens.explain.segmentation.segments import Method, Segmentation
from limelens.explain.settings import Compat, ExplainOptions, SamplingChoice, Settings, settle
from limelens.explain.stopping import Check, go_on
from limelens.explain.surrogate.fit import fit_labels
from limelens.explain.surrogate.methods import (
    Design,
    ExplainMethod,
    occlusion_design,
    rise_design,
    shap_design,
)
from limelens.explain.surrogate.selection import FeatureSelection

PAIRED_FROM = 5
"""Samples per segment from which "auto" draws pairs: below, half as many distinct rows are too
few."""

_FIRST_ROUND = 128
_GROWTH = 1.5
_FEW_SEGMENTS = 8
_FEW_SAMPLES = 4  # per segment
_POOR_SCORE = 0.3


def explain(
    image: Any,
    predict: Predict,
    *,
    method: ExplainMethod = "lime",
    labels: Sequence[int] | None = None,
    top_labels: int | None = None,
    segmentation: Method | None = None,
    num_segments: int | None = None,
    segmentation_options: Mapping[str, Any] | None = None,
    segments: Any = None,
    max_segments: int = cutting.MAX_SEGMENTS,
    num_samples: int = 1000,
    hide: str | Sequence[int] = "mean",
    kernel_width: float = 0.25,
    distance: Distance = "cosine",
    feature_selection: FeatureSelection | None = None,
    num_features: int | None = None,
    sampling: SamplingChoice = "auto",
    seed: int | np.random.RandomState | None = None,
    alpha: float = 1.0,
    batch_size: int | None = None,
    compat: Compat | None = None,
    stability: float | None = None,
    max_samples: int | None = None,
    deadline_ms: float | None = None,
    progress: Progress | None = None,
    check: Check = go_on,
) -> Explanation:
    """Explain what a classifier says of one image.

    Args:
        image: `(H, W, 3)` RGB or `(H, W)` grey pixels, uint8, of the size that the model sees.
        predict: `(N, H, W, 3)` uint8 -> `(N, C)` probabilities. An integer attribute
            `max_concurrency` above 1 lets it be called from that many threads at once; the answer
            stays the same. `limelens.explain.sampling.prediction` names what else it may say of
            itself.
        method: how segments are weighed: "lime"; "kernel_shap" (Shapley values: intercept plus
            weights equal the probability; exact where `num_samples` reaches 2^K for K segments);
            "occlusion" (how far the probability drops when one segment is hidden: K + 1 samples,
            with "shuffle" as many rounds of K as `num_samples` holds); "rise" (mean probability
            over random masks that show a segment, less that over those that hide it). The others
            ignore kernel_width, distance and alpha.
        labels: columns of `predict` to explain; unset: the `top_labels` most probable.
        top_labels: how many of the most probable labels to explain: 1, or 5 in compat mode.
        segmentation: how to cut the image: "slic" (the default), "quickshift" (compat mode's
            default), "felzenszwalb" or "grid".
        num_segments: how many segments slic and grid aim for, 40 unless set.
        segmentation_options: further arguments of the scikit-image function of that name.
        segments: `(H, W)` integers, the caller's own segments under any ids; 65535 marks pixels
            that are never hidden.
        max_segments: refuse an image of more segments, 4096 at most.
        num_samples: perturbed images to predict, the unperturbed one among them. With
            `stability` see `max_samples`.
        hide: what a hidden segment looks like: "mean" (its mean colour), "blur", "shuffle" (soft
            tiles from anywhere in the image, others for each sample) or `(r, g, b)`.
        kernel_width: width of the proximity kernel, in units of `distance`.
        distance: "cosine", or "euclidean" alias "l2" (the square root of the number of hidden
            segments: raise kernel_width to match).
        feature_selection: "none" (the default), "auto" (compat mode's default),
            "forward_selection", "highest_weights" or "lasso_path" (needs scikit-learn).
        num_features: how many segments to select at most; unset: all.
        sampling: "independent" rows, "paired" rows (each followed by its complement, which halves
            the samples needed), or "auto": paired from 5 samples per segment.
        seed: the same seed gives the same answer; unset: drawn from the operating system and
            reported. In compat mode also a RandomState, whose stream goes on from call to call as
            that of a lime explainer does.
        alpha: ridge penalty.
        batch_size: images per call of `predict`; unset: its attribute of that name, else 32; 10
            in compat mode.
        compat: "lime" does and defaults as the package lime 0.2.0.1 does, its faults included.
        stability: draw samples only until every label's `stability` reaches this.
        max_samples: the cap on that; unset: the larger of 4000 and `num_samples`.
        deadline_ms: start no further chunk after that long and explain from what there is.
        progress: called with (samples predicted, samples at most) after each chunk, in the
            caller's thread; raising stops the run.
        check: called after every chunk, between the stages and within the long ones, in the
            caller's thread; raising stops the run.

    Returns:
        The explanation.

    Raises:
        InvalidArgumentError: an argument that cannot be used; it says which.
        UnknownLabelError: a label beyond those that `predict` answers for.
        PredictionError: `predict` answered with a wrong shape or with non-finite numbers.
        MissingPackageError: scikit-image, or scikit-learn for "lasso_path", is not installed.
        Exception: whatever `predict`, `progress` or `check` raises, once no thread is left running.
    """
    options = ExplainOptions(
        method=method,
        labels=labels,
        top_labels=top_labels,
        segmentation=segmentation,
        num_segments=num_segments,
        segmentation_options=segmentation_options,
        segments=segments,
        max_segments=max_segments,
        num_samples=num_samples,
        hide=hide,
        kernel_width=kernel_width,
        distance=distance,
        feature_selection=feature_selection,
        num_features=num_features,
        sampling=sampling,
        seed=seed,
        alpha=alpha,
        batch_size=batch_size,
        compat=compat,
        stability=stability,
        max_samples=max_samples,
        deadline_ms=deadline_ms,
        progress=progress,
        check=check,
    )
    in_rounds = stability is not None
    *_, last = _explanations(image, predict, settle(options), in_rounds=in_rounds)
    return last


def explain_progressively(
    image: Any, predict: Predict, **options: Unpack[ExplainOptions]
) -> Iterator[Explanation]:
    """Explain in rounds: each element is a usable explanation from more samples than the last.

    Takes what `explain` takes and raises what it raises: settings are checked at once, the image
    and the labels with the first element. The last element equals what `explain` returns for the
    same arguments and seed; where the deadline struck between rounds it repeats the one before
    and says so in its warnings. Closing the iterator stops the work.
    """
    unknown = [name for name in options if name not in _DEFAULTS]
    if unknown:
        raise TypeError(f"unexpected keyword arguments {unknown}; expected those of explain")
    settings = settle({**_DEFAULTS, **options})
    return _explanations(image, predict, settings, in_rounds=True)


_DEFAULTS = cast(
    ExplainOptions,
    {
        name: parameter.default
        for name, parameter in inspect.signature(explain).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    },
)


def _explanations(
    image: Any,
    predict: Predict,
    settings: Settings,
    *,
    in_rounds: bool,
) -> Iterator[Explanation]:
    clock = _Clock()
    deadline = None
    if settings.deadline_ms is not None:
        deadline = clock.started + settings.deadline_ms / 1000
    settings.check()
    pixels = as_rgb(image)
    segmentation = _cut(pixels, settings)
    if segmentation.num_segments > settings.max_segments:
        raise InvalidArgumentError(
            "max_segments",
            f"The image has {segmentation.num_segments} segments; at most "
            f"{settings.max_segments} are explained: cut it into fewer",
        )
    settings.check()
    clock.lap("segment")

    num_segments = segmentation.num_segments
    sampling = _sampling(settings, num_segments)
    design = _draw(settings, num_segments, sampling)
    visible = design.visible
    num_samples = visible.shape[0]
    if design.complete:
        sampling = "independent"
    fill = neighbourhood.fill(
        pixels,
        segmentation,
        settings.hide,
        num_samples=num_samples,
        sampling=sampling,
        seed=settings.seed or 0,
        truncate=settings.like_lime,
    )
    settings.check()
    # KernelSHAP needs the image and its absence, deadline or not.
    fewest = 2 if settings.method == "kernel_shap" else 1
    batch_size = max(settings.batch_size or liked_batch_size(predict), fewest)
    predictions = Predictions(
        predict,
        neighbourhood.perturbation(pixels, fill, segmentation, paired=sampling == "paired"),
        visible,
        batch_size=batch_size,
        check_labels=lambda num_labels: _check_labels(settings.labels, num_labels),
        check=settings.check,
        progress=settings.progress,
    )
    in_rounds = in_rounds and not (design.complete and fill.corners is None)
    rounds = _rounds(num_samples, num_segments, batch_size) if in_rounds else [num_samples]
    for target in rounds:
        predictions.advance(target, deadline)
        clock.lap("predict")
        num_done = predictions.num_done
        late = num_done < target
        samples = Samples(
            visible=visible[:num_done],
            probabilities=predictions.probabilities,
            weights=design.weights[:num_done],
            columns=segmentation.ids,
            alpha=settings.alpha,
            method=settings.method,
            exact=design.complete and fill.corners is None and not late,
        )
        explanations = fit_labels(
            samples,
            _labels_to_explain(settings, samples.probabilities[0]),
            sampling=sampling,
            feature_selection=settings.feature_selection,
            num_features=settings.num_features,
            check=settings.check,
        )
        stable = settings.stability is not None and settings.stability <= min(
            one.stability for one in explanations
        )
        clock.lap("fit")
        yield Explanation(
            image_size=(pixels.shape[0], pixels.shape[1]),
            segments=segmentation.labels,
            num_segments=num_segments,
            num_samples=num_done,
            seed=settings.seed,
            sampling=sampling,
            explanations=explanations,
            warnings=segmentation.warnings
            + _warnings(settings, samples, explanations, num_samples, late=late),
            timings_ms=clock.timings(),
            samples=samples,
            hide=settings.hide,
        )
        clock.resume()
        if late or stable:
            return


class _Clock:
    """Time spent by stage; what passes between two explanations is the reader's own."""

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


def _cut(pixels: NDArray[np.uint8], settings: Settings) -> Segmentation:
    height, width = pixels.shape[:2]
    how: dict[str, Any] = {
        "num_segments": settings.num_segments,
        "options": settings.segmentation_options,
    }
    if settings.like_lime:
        if settings.state is not None:
            settings.state.randint(0, 1000)  # lime's seed for a segmentation that ignores it
        if settings.segments is not None:
            return cutting.given_like_lime(settings.segments, height, width)
        return cutting.cut_like_lime(pixels, settings.segmentation, **how)
    if settings.segments is not None:
        return cutting.given(settings.segments, height, width)
    return cutting.cut(pixels, settings.segmentation, seed=settings.seed or 0, **how)


def _sampling(settings: Settings, num_segments: int) -> Sampling:
    if settings.like_lime or settings.sampling == "independent":
        return "independent"
    if settings.sampling == "paired" or settings.num_samples >= PAIRED_FROM * num_segments:
        return "paired"
    return "independent"


def _draw(settings: Settings, num_segments: int, sampling: Sampling) -> Design:
    num_samples, rng = settings.num_samples, np.random.default_rng(settings.seed)
    if settings.method == "kernel_shap":
        return shap_design(rng, num_samples, num_segments, sampling)
    if settings.method == "occlusion":
        repeated = settings.hide == "shuffle"
        return occlusion_design(num_samples, num_segments, repeated=repeated)
    if settings.method == "rise":
        return rise_design(rng, num_samples, num_segments, sampling)
    if settings.state is not None:
        visible = neighbourhood.draw_like_lime(settings.state, num_samples, num_segments)
    else:
        visible = neighbourhood.draw(rng, num_samples, num_segments, sampling)
    near = proximity(distances(visible, settings.distance), settings.kernel_width)
    return Design(visible, near, complete=False)


def _rounds(num_samples: int, num_segments: int, batch_size: int) -> list[int]:
    """Growing numbers of samples, up to all of them.

    Each round but the last ends where a batch ends, so that the model is asked in the same batches
    however many rounds there are: many models round batches of other sizes differently. Each is
    even, so that pairs stay together.
    """
    step = math.lcm(batch_size, 2)
    rounds: list[int] = []
    size = float(max(_FIRST_ROUND, _FEW_SAMPLES * num_segments))
    while (target := math.ceil(size / step) * step) < num_samples:
        if not rounds or target > rounds[-1]:
            rounds.append(target)
        size *= _GROWTH
    return [*rounds, num_samples]


def _check_labels(labels: tuple[int, ...] | None, num_labels: int) -> None:
    for label in labels or ():
        if label >= num_labels:
            raise UnknownLabelError(
                "labels", f"labels names {label}; predict answers for labels 0 to {num_labels - 1}"
            )


def _labels_to_explain(settings: Settings, probabilities: NDArray[np.floating]) -> tuple[int, ...]:
    if settings.labels is not None:
        return settings.labels
    if settings.like_lime:
        order = np.argsort(probabilities)[::-1]
    else:
        order = np.argsort(-probabilities, kind="stable")
    return tuple(order[: settings.top_labels].tolist())


def _warnings(
    settings: Settings,
    samples: Samples,
    explanations: tuple[LabelExplanation, ...],
    most_samples: int,
    *,
    late: bool,
) -> tuple[str, ...]:
    num_samples, num_segments = samples.visible.shape
    found = []
    if num_segments == 1:
        found.append(
            "The image is a single segment: its weight says only that the image matters, not "
            "where. Use a larger image, more segments, or give your own."
        )
    elif num_segments < _FEW_SEGMENTS:
        found.append(
            f"There are only {num_segments} segments, so the explanation is coarse. Ask for more "
            f"segments or give your own."
        )
    if samples.exact or samples.method == "occlusion":
        pass  # few are enough
    elif num_samples < _FEW_SAMPLES * num_segments:
        found.append(
            f"{num_samples} samples are few for {num_segments} segments: the weights are mostly "
            f"noise. Use at least {_FEW_SAMPLES * num_segments} samples, or fewer segments."
        )
    elif samples.method == "lime" and (effective := effective_samples(samples.weights)) < min(
        num_segments + 1, num_samples / 10
    ):
        found.append(
            f"Most samples count for nothing: the {num_samples} samples weigh as much as "
            f"{effective:.1f}. Raise kernel_width ({settings.kernel_width:g} now) to suit the "
            f"{settings.distance} distance."
        )
    for one in explanations:
        column = samples.probabilities[:, one.label]
        if column.max() - column.min() <= 1e-6 * abs(one.probability):
            found.append(
                f"Label {one.label}: its probability is {one.probability:.4g} whatever is hidden, "
                f"so there is nothing to explain."
            )
            continue
        if one.score < _POOR_SCORE:
            found.append(
                f"Label {one.label}: the linear surrogate follows the model poorly here (R² "
                f"{one.score:.2f}); do not rely on single weights."
            )
        if (
            settings.stability is not None
            and one.stability < settings.stability
            and (late or num_samples == most_samples)
        ):
            tied = ", ".join(map(str, one.ties))
            found.append(
                f"Label {one.label}: stability is {one.stability:.2f} after {num_samples} samples, "
                f"below the target {settings.stability:.2f}"
                + (f"; segments {tied} are tied around place {one.top_k}." if tied else ".")
            )
    if late:
        found.append(
            f"The deadline of {settings.deadline_ms:g} ms passed after {num_samples} of "
            f"{most_samples} samples."
        )
    return tuple(found)
