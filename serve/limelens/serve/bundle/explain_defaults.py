"""How a model is best explained: the values of options that a request leaves unset.

They were measured on validation images, and travel in the bundle. Knows the options of
`limelens.explain` by name, and their values in JSON. Does not know requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from limelens.errors import LimelensError
from limelens.explain.settings import ExplainOptions, Settings
from limelens.serve.errors import BundleError

MIN_SAMPLES: Final = 10
MAX_FILLS: Final = 16
_MAX_SAMPLES: Final = 100_000
_MAX_SEGMENTS: Final = 1000
_MAX_WHY_BYTES: Final = 100_000
NUMBERED: Final = frozenset({"slic", "grid"})
"""Segmentations that are given a number of segments."""
_OF_THE_METHOD: Final = ("method", "num_samples", "kernel_width", "sampling")
_OF_THE_CUT: Final = ("segmentation", "num_segments")


@dataclass(frozen=True)
class ExplainDefaults:
    """Options of an explanation, each None where the library's own default serves.

    Args:
        method: As for `limelens.explain.Settings`, like all that follow; None is lime.
        hide: A fill's name, or a colour `(r, g, b)`.
        num_fills: Of each row, where fills differ: 1 to 16.
        segmentation: How to cut an image.
        num_segments: For segmentations that are given a number, 2 to 1000.
        num_samples: 10 to 100,000; a server's own limit may be lower.
        kernel_width: Of lime.
        sampling: How rows are drawn.
        why: What led to them: the candidates and their figures; JSON.

    Raises:
        BundleError: A value that the library does not take, or two that do not fit each other.
    """

    method: str | None = None
    hide: str | tuple[int, int, int] | None = None
    num_fills: int | None = None
    segmentation: str | None = None
    num_segments: int | None = None
    num_samples: int | None = None
    kernel_width: float | None = None
    sampling: str | None = None
    why: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {
            "num_fills": self.num_fills,
            "num_segments": self.num_segments,
            "num_samples": self.num_samples,
        }
        for name, number in numbers.items():
            if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
                raise BundleError(f"explain.{name} {number!r}; expected a whole number")
        width = self.kernel_width
        if width is not None and (not isinstance(width, (int, float)) or isinstance(width, bool)):
            raise BundleError(f"explain.kernel_width {width!r}; expected a number")
        if self.num_fills is not None and not 1 <= self.num_fills <= MAX_FILLS:
            raise BundleError(f"explain.num_fills {self.num_fills}; expected 1 to {MAX_FILLS}")
        if self.num_segments is not None and not 2 <= self.num_segments <= _MAX_SEGMENTS:
            raise BundleError(
                f"explain.num_segments {self.num_segments}; expected 2 to {_MAX_SEGMENTS}"
            )
        if self.num_samples is not None and not MIN_SAMPLES <= self.num_samples <= _MAX_SAMPLES:
            raise BundleError(
                f"explain.num_samples {self.num_samples}; expected {MIN_SAMPLES} to {_MAX_SAMPLES}"
            )
        if self.num_segments is not None and (self.segmentation or "slic") not in NUMBERED:
            raise BundleError(
                f"explain.num_segments with {self.segmentation!r}, which finds its own number; "
                "expected only one of them"
            )
        if not isinstance(self.why, Mapping) or len(json.dumps(dict(self.why))) > _MAX_WHY_BYTES:
            raise BundleError(
                f"explain.why is no mapping of at most {_MAX_WHY_BYTES:,} bytes of JSON"
            )
        try:
            Settings(**self.options())
        except (LimelensError, TypeError, ValueError) as error:
            raise BundleError(f"explain: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """The options that are not None."""
        named = (one.name for one in fields(self) if one.name != "why")
        return tuple(name for name in named if getattr(self, name) is not None)

    def describe(self) -> str:
        """Those options, for people."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.names) or "the defaults"

    def options(self) -> ExplainOptions:
        """Those options, as `limelens.explain` takes them."""
        found: Any = {name: getattr(self, name) for name in self.names}
        options: ExplainOptions = found
        return options

    def without(self, *names: str) -> ExplainDefaults:
        """The same with some options None."""
        none: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **none)

    def for_method(self, method: str | None) -> ExplainDefaults:
        """What is left beside a method that the caller names.

        With another one, what hides and what is hidden still fit; the samples do not.
        """
        if method is None:
            return self
        is_same = method == (self.method or "lime")
        return self.without("method") if is_same else self.without(*_OF_THE_METHOD)

    def for_cut(
        self, segmentation: str | None, *, is_own: bool = False, is_numbered: bool = False
    ) -> ExplainDefaults:
        """What is left beside a segmentation that the caller names.

        Args:
            segmentation: The method; None if the caller names none.
            is_own: The caller brings segments.
            is_numbered: The caller names a number of segments.
        """
        own = self.segmentation or "slic"
        if is_own or (segmentation is not None and segmentation != own):
            return self.without(*_OF_THE_CUT)
        # Segmentations that find their own number do not fit a caller who names one.
        drops_cut = segmentation is not None or (is_numbered and own not in NUMBERED)
        left = self.without("segmentation") if drops_cut else self
        return left.without("num_segments") if is_numbered else left

    def to_json(self) -> dict[str, Any]:
        """As they are written into a bundle."""
        values: dict[str, Any] = {**self.options(), "why": dict(self.why)}
        if isinstance(self.hide, tuple):
            values["hide"] = list(self.hide)
        return values

    @classmethod
    def from_json(cls, values: Any) -> ExplainDefaults:
        """Reads what `to_json` wrote, or what somebody wrote by hand.

        Raises:
            BundleError: It is not that.
        """
        if not isinstance(values, Mapping):
            raise BundleError(f"explain is a {type(values).__name__}; expected a mapping")
        known = [one.name for one in fields(cls)]
        if unknown := sorted(map(str, set(values) - set(known))):
            raise BundleError(f"explain has {unknown}; expected some of {', '.join(known)}")
        values = dict(values)
        if isinstance(values.get("hide"), list):
            values["hide"] = tuple(values["hide"])
        return cls(**values)


NO_DEFAULTS: Final = ExplainDefaults()
"""The library's own."""
