"""The options of an explanation: one frozen value, checked when it is made.

Names every option and the values that it takes. Does not know the image or the model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.validation import (
    above_zero,
    as_labels,
    as_references,
    at_least,
    one_of,
    share,
    word_or_colour,
)

ExplainMethod = Literal["lime", "kernel_shap", "occlusion", "rise"]
SegmentationMethod = Literal["slic", "quickshift", "felzenszwalb", "grid"]
HideName = Literal["mean", "blur", "shuffle", "references"]
Hide = str | Sequence[int]
"""One of `HideName`, or a colour `(r, g, b)`."""
References = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""`(M, H, W, 3)` uint8 images, and `(M, C)` which labels each has."""
Distance = Literal["cosine", "euclidean", "l2"]
FeatureSelection = Literal["none", "auto", "forward_selection", "highest_weights", "lasso_path"]
Sampling = Literal["paired", "independent"]
SamplingChoice = Literal["auto", "paired", "independent"]
Compat = Literal["lime"]

Check = Callable[[], None]
"""Called between the steps of long work, at least every few tenths of a second. Raising stops the
work."""
Progress = Callable[[int, int], None]
"""Called after each chunk with the number of samples predicted and the most there can be. Raising
stops the work."""

DEFAULT_NUM_SEGMENTS = 40
"""For segmentations that are given a number."""
MAX_SEGMENTS = 4096
"""More segments need more memory and samples than an explanation is worth."""
_DEFAULT_MAX_SAMPLES = 4000
_NUM_FILLS = 6  # with fewer the fit is noisier, with more there are fewer rows
_HIDDEN_SHARE = 0.3  # with less, the weights of what shows twice are near zero
VARYING_FILLS: Collection[Hide] = ("shuffle", "references")
"""The fills that differ from sample to sample."""


def go_on() -> None:
    """The check that never stops the work."""


class ExplainOptions(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments of `explain`."""

    method: ExplainMethod
    labels: Sequence[int] | None
    top_labels: int | None
    segmentation: SegmentationMethod | None
    num_segments: int | None
    segmentation_options: Mapping[str, Any] | None
    segments: Any
    max_segments: int
    num_samples: int
    hide: Hide
    references: References | None
    num_fills: int | None
    hidden_share: float | None
    kernel_width: float
    distance: Distance
    feature_selection: FeatureSelection | None
    num_features: int | None
    sampling: SamplingChoice
    seed: int | np.random.RandomState | None
    alpha: float
    batch_size: int | None
    compat: Compat | None
    stability: float | None
    max_samples: int | None
    deadline_ms: float | None
    started_at: float | None
    progress: Progress | None
    check: Check


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """How to explain. Fields left at None take a default that depends on the others.

    Attributes:
        method: How segments are weighed: "lime"; "kernel_shap" (Shapley values: intercept plus
            weights equal the probability; exact where `num_samples` reaches 2^K for K segments);
            "occlusion" (how far the probability drops when one segment is hidden: K + 1 samples,
            with "shuffle" as many rounds of K as `num_samples` holds); "rise" (mean probability
            over random masks that show a segment, less that over those that hide it). The others
            ignore kernel_width, distance and alpha.
        labels: Columns of `predict` to explain; None: the `top_labels` most probable.
        top_labels: How many of the most probable labels to explain; None: 1, or 5 in compat mode.
        segmentation: How to cut the image: "slic" (the default), "quickshift" (compat mode's
            default), "felzenszwalb" or "grid".
        num_segments: How many segments slic and grid aim for; None: 40.
        segmentation_options: Further arguments of the scikit-image function of that name.
        segments: `(H, W)` integers, the caller's own segments under any ids; 65535 marks pixels
            that are never hidden.
        max_segments: Refuse an image with more segments.
        num_samples: Perturbed images to predict, including the unperturbed one. With `stability`
            see `max_samples`.
        hide: How a hidden segment looks: "mean" (its mean colour), "blur", "shuffle" (soft tiles
            from anywhere in the image, different for each sample), "references" (the same place in
            images of other labels, taken in turns) or `(r, g, b)`.
        references: For "references": `(M, H, W, 3)` uint8 images, and of each its label, `(M,)`
            integers, or labels, `(M, C)` bool; None: `predict`'s attribute of that name. The first
            16 without the image's label are used.
        num_fills: In how many fills each row of the design is predicted; the surrogate is fitted to
            their mean. Only where fills differ; None: 6 for "references", else 1.
        hidden_share: For lime: the probability with which a row hides a segment; None: 0.3 for
            "references" that are not "paired", else 0.5. Only rows of 0.5 come in pairs.
        kernel_width: Width of the proximity kernel, in units of `distance`.
        distance: "cosine", or "euclidean" alias "l2" (the square root of the number of hidden
            segments: raise kernel_width to match).
        feature_selection: "none" (the default), "auto" (compat mode's default),
            "forward_selection", "highest_weights" or "lasso_path" (needs scikit-learn).
        num_features: How many segments to select at most; None: all.
        sampling: "independent" rows, "paired" rows (each followed by its complement, which halves
            the samples needed), or "auto": paired from 5 samples per segment.
        seed: The same seed gives the same explanation; None: drawn from the operating system and
            reported. Compat mode also takes a RandomState and continues its stream from call to
            call, as a lime explainer does.
        alpha: Ridge penalty.
        batch_size: Images per call of `predict`; None: its attribute of that name, else 32; 10 in
            compat mode.
        compat: "lime" has the algorithm and the defaults of lime 0.2.0.1, faults included.
        stability: Draw samples only until every label's `stability` reaches this.
        max_samples: The cap with `stability`; None: the larger of 4000 and `num_samples`.
        deadline_ms: Start no further chunk after this time, and explain from the samples so far.
        started_at: The `time.monotonic()` from which `deadline_ms` counts; None: the call.
        progress: Called with (samples predicted, most samples) after each chunk, in the caller's
            thread; raising stops the work.
        check: Called after every chunk, between the stages and within the long ones, in the
            caller's thread; raising stops the work.

    Raises:
        InvalidArgumentError: A value is out of its range, or two contradict each other.
    """

    method: ExplainMethod = "lime"
    labels: Sequence[int] | None = None
    top_labels: int | None = None
    segmentation: SegmentationMethod | None = None
    num_segments: int | None = None
    segmentation_options: Mapping[str, Any] | None = None
    segments: Any = None
    max_segments: int = MAX_SEGMENTS
    num_samples: int = 1000
    hide: Hide = "mean"
    references: References | None = None
    num_fills: int | None = None
    hidden_share: float | None = None
    kernel_width: float = 0.25
    distance: Distance = "cosine"
    feature_selection: FeatureSelection | None = None
    num_features: int | None = None
    sampling: SamplingChoice = "auto"
    seed: int | np.random.RandomState | None = None
    alpha: float = 1.0
    batch_size: int | None = None
    compat: Compat | None = None
    stability: float | None = None
    max_samples: int | None = None
    deadline_ms: float | None = None
    started_at: float | None = None
    progress: Progress | None = None
    check: Check = go_on

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if (valid := _VALID.get(field.name)) is not None:
                object.__setattr__(self, field.name, valid(field.name, value))
        _check_together(self)

    @property
    def like_lime(self) -> bool:
        """Whether to do everything as lime does."""
        return self.compat == "lime"

    @property
    def fills_per_row(self) -> int:
        """In how many fills each row of the design is predicted; occlusion repeats rows itself."""
        if self.method == "occlusion":
            return 1
        return self.num_fills or (_NUM_FILLS if self.hide == "references" else 1)

    @property
    def hiding(self) -> float:
        """The probability with which a row hides a segment; 0.5 for methods other than lime."""
        if self.method != "lime":
            return 0.5
        is_usual = self.hide != "references" or self.sampling == "paired"
        return self.hidden_share or (0.5 if is_usual else _HIDDEN_SHARE)

    @property
    def sample_limit(self) -> int:
        """How many samples are drawn at most."""
        if self.stability is None:
            return self.num_samples
        return self.max_samples or max(self.num_samples, _DEFAULT_MAX_SAMPLES)


def _check_together(settings: Settings) -> None:
    """Raise where two options contradict each other."""

    def refuse(argument: str, message: str) -> None:
        raise InvalidArgumentError(argument, message)

    if settings.labels is not None and settings.top_labels is not None:
        refuse("labels", "labels and top_labels are both given: give one of them")
    how = (settings.segmentation, settings.num_segments, settings.segmentation_options)
    if settings.segments is not None and how != (None, None, None):
        refuse(
            "segments",
            "segments are given together with segmentation, num_segments or "
            "segmentation_options: give either the segments or how to find them",
        )
    if settings.max_samples is not None and settings.stability is None:
        refuse(
            "max_samples",
            "max_samples caps a stability target: set stability too, or use num_samples",
        )
    method = settings.method
    selects = settings.num_features is not None or settings.feature_selection not in (None, "none")
    if method != "lime" and selects:
        refuse(
            "feature_selection",
            f"method {method!r} weighs every segment: leave feature_selection and num_features "
            "unset, or use method 'lime'",
        )
    if (settings.num_fills or 1) > 1 and settings.hide not in VARYING_FILLS:
        refuse(
            "num_fills",
            f"num_fills is {settings.num_fills}, but hide={settings.hide!r} is one fill: leave it "
            "unset, or hide by 'shuffle' or 'references'",
        )
    if settings.hiding != 0.5 and settings.sampling == "paired":
        refuse(
            "sampling",
            f"pairs hide half of the segments on average, and hidden_share is {settings.hiding:g}: "
            "leave sampling unset, or set hidden_share to 0.5",
        )
    seed = settings.seed
    if not settings.like_lime:
        if isinstance(seed, np.random.RandomState):
            refuse("seed", "seed is a RandomState, which only compat='lime' takes: give an integer")
        return
    if method != "lime":
        refuse("method", f"method is {method!r}, which compat='lime' lacks: set one of them")
    if settings.sampling == "paired":
        refuse("sampling", "lime draws independent rows: leave sampling unset")
    if isinstance(settings.hide, str) and settings.hide != "mean":
        refuse("hide", f"lime hides with 'mean' or a colour; {settings.hide!r} needs compat=None")
    if settings.hiding != 0.5:
        refuse("hidden_share", "lime hides half of the segments: leave hidden_share unset")
    if isinstance(seed, int) and seed >= 2**32:
        refuse("seed", f"seed is {seed}; lime's random numbers take 0 to 2**32 - 1")


def _seed(argument: str, seed: int | np.random.RandomState) -> int | np.random.RandomState:
    return seed if isinstance(seed, np.random.RandomState) else at_least(0)(argument, seed)


_finite = above_zero(float(np.finfo(np.float64).max), "a finite number above 0")
_VALID: Mapping[str, Callable[[str, Any], Any]] = {
    "method": one_of(*get_args(ExplainMethod)),
    "labels": as_labels,
    "top_labels": at_least(1),
    "segmentation": one_of(*get_args(SegmentationMethod)),
    "num_segments": at_least(1),
    "max_segments": at_least(1),
    "num_samples": at_least(2),
    "hide": word_or_colour(*get_args(HideName)),
    "references": as_references,
    "num_fills": at_least(1),
    "hidden_share": share,
    "kernel_width": _finite,
    "distance": one_of(*get_args(Distance)),
    "feature_selection": one_of(*get_args(FeatureSelection)),
    "num_features": at_least(1),
    "sampling": one_of(*get_args(SamplingChoice)),
    "seed": _seed,
    "alpha": _finite,
    "batch_size": at_least(1),
    "compat": one_of("lime"),
    "stability": above_zero(1.0, "above 0 and at most 1, e.g. 0.9"),
    "max_samples": at_least(2),
    "deadline_ms": above_zero(np.inf, "above 0"),
}
