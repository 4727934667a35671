"""What the caller asked for, checked, with every default filled in.

Knows the arguments of `explain` and what lime's defaults are. Does not know the image.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args

import numpy as np

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.sampling.perturbation import Hide, HideName
from limelens.explain.sampling.prediction import Progress
from limelens.explain.sampling.proximity import Distance
from limelens.explain.segmentation.segments import Method
from limelens.explain.stopping import Check
from limelens.explain.surrogate.methods import ExplainMethod
from limelens.explain.surrogate.selection import FeatureSelection

Compat = Literal["lime"]
SamplingChoice = Literal["auto", "paired", "independent"]

_DEFAULT_MAX_SAMPLES = 4000
_T = TypeVar("_T", bound=str)


class ExplainOptions(TypedDict, total=False):
    """The keyword arguments of `explain`, which says what each of them means."""

    method: ExplainMethod
    labels: Sequence[int] | None
    top_labels: int | None
    segmentation: Method | None
    num_segments: int | None
    segmentation_options: Mapping[str, Any] | None
    segments: Any
    max_segments: int
    num_samples: int
    hide: str | Sequence[int]
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
    progress: Progress | None
    check: Check


@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of `explain`, all of them decided.

    Attributes:
        method: how segments are weighed.
        labels: the labels to explain, or None for the `top_labels` most probable.
        top_labels: how many, where `labels` is None.
        segmentation: the algorithm, unless `segments` is given.
        num_segments: its target, or None for its default.
        segmentation_options: its other arguments.
        segments: the caller's own segments.
        max_segments: how many there may be.
        num_samples: how many samples to draw at most.
        hide: what hidden segments look like.
        kernel_width: width of the proximity kernel.
        distance: its distance.
        feature_selection: how the surrogate's segments are chosen.
        num_features: how many, or None for all.
        sampling: how rows are drawn.
        seed: reproduces the run; None when `state` was handed in.
        state: lime's random stream, in compat mode only.
        alpha: ridge penalty.
        batch_size: images per call of `predict`; None for what it likes.
        like_lime: do as lime does throughout.
        stability: stop once every label reaches it; None to draw all samples.
        deadline_ms: stop drawing after that long; None for no limit.
        progress: told after each chunk.
        check: may stop the work.
    """

    method: ExplainMethod
    labels: tuple[int, ...] | None
    top_labels: int
    segmentation: Method
    num_segments: int | None
    segmentation_options: Mapping[str, Any] | None
    segments: Any
    max_segments: int
    num_samples: int
    hide: Hide
    kernel_width: float
    distance: Distance
    feature_selection: FeatureSelection
    num_features: int | None
    sampling: SamplingChoice
    seed: int | None
    state: np.random.RandomState | None
    alpha: float
    batch_size: int | None
    like_lime: bool
    stability: float | None
    deadline_ms: float | None
    progress: Progress | None
    check: Check


def settle(options: ExplainOptions) -> Settings:
    """Check the arguments of `explain` and decide what was left open.

    Args:
        options: all of them.

    Raises:
        InvalidArgumentError: a value out of its range, or two that contradict each other.
    """
    labels, top_labels = options["labels"], options["top_labels"]
    segmentation, num_segments = options["segmentation"], options["num_segments"]
    segments, segmentation_options = options["segments"], options["segmentation_options"]
    hide, sampling, compat = options["hide"], options["sampling"], options["compat"]
    stability, max_samples = options["stability"], options["max_samples"]
    num_features, batch_size = options["num_features"], options["batch_size"]
    deadline_ms = options["deadline_ms"]
    if compat not in (None, "lime"):
        raise InvalidArgumentError("compat", f"compat is {compat!r}; expected None or 'lime'")
    like_lime = compat == "lime"
    if labels is not None and top_labels is not None:
        raise InvalidArgumentError(
            "labels", "labels and top_labels are both given: give one of them"
        )
    if segments is not None and (
        segmentation is not None or num_segments is not None or segmentation_options is not None
    ):
        raise InvalidArgumentError(
            "segments",
            "segments are given together with segmentation, num_segments or "
            "segmentation_options: give either the segments or how to find them",
        )
    if like_lime and sampling == "paired":
        raise InvalidArgumentError("sampling", "lime draws independent rows: leave sampling unset")
    if like_lime and hide in ("blur", "shuffle"):
        raise InvalidArgumentError(
            "hide", f"lime hides with 'mean' or a colour; {hide!r} needs compat=None"
        )
    method = _choice("method", options["method"], get_args(ExplainMethod))
    if like_lime and method != "lime":
        raise InvalidArgumentError(
            "method", f"method is {method!r}, which compat='lime' does not have: set one of them"
        )
    if method != "lime" and (
        num_features is not None or options["feature_selection"] not in (None, "none")
    ):
        raise InvalidArgumentError(
            "feature_selection",
            f"method {method!r} weighs every segment: leave feature_selection and num_features "
            f"unset, or use method 'lime'",
        )
    if max_samples is not None and stability is None:
        raise InvalidArgumentError(
            "max_samples",
            "max_samples caps a stability target: set stability too, or use num_samples",
        )
    count = _whole("num_samples", options["num_samples"], 2)
    if stability is not None:
        if not 0.0 < stability <= 1.0:
            raise InvalidArgumentError(
                "stability", f"stability is {stability}; expected above 0 and at most 1, e.g. 0.9"
            )
        count = (
            max(count, _DEFAULT_MAX_SAMPLES)
            if max_samples is None
            else _whole("max_samples", max_samples, 2)
        )
    if deadline_ms is not None and not deadline_ms > 0:
        raise InvalidArgumentError("deadline_ms", f"deadline_ms is {deadline_ms}; expected above 0")
    settled_seed, state = _seed(options["seed"], like_lime)
    default_method = "quickshift" if like_lime else "slic"
    default_selection = "auto" if like_lime else "none"
    return Settings(
        method=method,
        labels=None if labels is None else _labels(labels),
        top_labels=_whole(
            "top_labels", (5 if like_lime else 1) if top_labels is None else top_labels, 1
        ),
        segmentation=_choice("segmentation", segmentation or default_method, get_args(Method)),
        num_segments=None if num_segments is None else _whole("num_segments", num_segments, 1),
        segmentation_options=segmentation_options,
        segments=segments,
        max_segments=_whole("max_segments", options["max_segments"], 1),
        num_samples=count,
        hide=_hide(hide),
        kernel_width=_positive("kernel_width", options["kernel_width"]),
        distance=_choice("distance", options["distance"], get_args(Distance)),
        feature_selection=_choice(
            "feature_selection",
            options["feature_selection"] or default_selection,
            get_args(FeatureSelection),
        ),
        num_features=None if num_features is None else _whole("num_features", num_features, 1),
        sampling=_choice("sampling", sampling, get_args(SamplingChoice)),
        seed=settled_seed,
        state=state,
        alpha=_positive("alpha", options["alpha"]),
        batch_size=(10 if like_lime else None)
        if batch_size is None
        else _whole("batch_size", batch_size, 1),
        like_lime=like_lime,
        stability=stability,
        deadline_ms=deadline_ms,
        progress=options["progress"],
        check=options["check"],
    )


def _whole(argument: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(
            argument, f"{argument} is {value!r}; expected an integer"
        ) from None
    if number < least:
        raise InvalidArgumentError(argument, f"{argument} is {number}; expected at least {least}")
    return number


def _positive(argument: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise InvalidArgumentError(
            argument, f"{argument} is {value}; expected a finite number above 0"
        )
    return float(value)


def _choice(argument: str, value: str, choices: tuple[_T, ...]) -> _T:
    for choice in choices:
        if choice == value:
            return choice
    raise InvalidArgumentError(
        argument, f"{argument} is {value!r}; expected one of {', '.join(map(repr, choices))}"
    )


def _labels(labels: Sequence[int]) -> tuple[int, ...]:
    if len(labels) == 0:
        raise InvalidArgumentError(
            "labels", "labels is empty; name at least one label, or leave it unset"
        )
    return tuple(dict.fromkeys(_whole("labels", label, 0) for label in labels))


def _hide(hide: str | Sequence[int]) -> Hide:
    for name in get_args(HideName):
        if hide == name:
            return cast(HideName, name)
    expected = "expected 'mean', 'blur', 'shuffle' or three integers (r, g, b) from 0 to 255"
    if isinstance(hide, str) or len(hide) != 3:
        raise InvalidArgumentError("hide", f"hide is {hide!r}; {expected}")
    red, green, blue = (_whole("hide", value, 0) for value in hide)
    if max(red, green, blue) > 255:
        raise InvalidArgumentError("hide", f"hide is {hide!r}; {expected}")
    return red, green, blue


def _seed(
    seed: int | np.random.RandomState | None, like_lime: bool
) -> tuple[int | None, np.random.RandomState | None]:
    if isinstance(seed, np.random.RandomState):
        if not like_lime:
            raise InvalidArgumentError(
                "seed", "seed is a RandomState, which only compat='lime' takes: give an integer"
            )
        return None, seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    number = _whole("seed", seed, 0)
    if not like_lime:
        return number, None
    if number >= 2**32:
        raise InvalidArgumentError(
            "seed", f"seed is {number}; lime's random numbers take 0 to 2**32 - 1"
        )
    return number, np.random.RandomState(number)
