"""Reasons not to trust an explanation: values, and their sentences.

Knows kinds of warnings and English. Does not know when a warning is due.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class WarningKind(StrEnum):
    """The kind of a warning."""

    TOO_SMALL = "too_small"
    NOT_CUT = "not_cut"
    SINGLE_SEGMENT = "single_segment"
    FEW_SEGMENTS = "few_segments"
    FEW_SAMPLES = "few_samples"
    NARROW_KERNEL = "narrow_kernel"
    CONSTANT = "constant"
    LITTLE_EFFECT = "little_effect"
    WEAK_WEIGHTS = "weak_weights"
    POOR_FIT = "poor_fit"
    UNSTABLE = "unstable"
    TIED = "tied"
    DEADLINE = "deadline"


_UNSTABLE = (
    "stability is {stability:.2f} after {num_samples} samples, below the target {target:.2f}"
)
_SENTENCES: Mapping[WarningKind, str] = {
    WarningKind.TOO_SMALL: (
        "The image is {height}x{width} pixels, too small for {segmentation}: cut into a grid."
    ),
    WarningKind.NOT_CUT: (
        "{segmentation} found a single segment: the image was cut into a grid instead."
    ),
    WarningKind.SINGLE_SEGMENT: (
        "The image is a single segment: its weight shows only that the image matters, not where. "
        "Use a larger image, more segments, or give your own."
    ),
    WarningKind.FEW_SEGMENTS: (
        "There are only {num_segments} segments, so the explanation is coarse. Ask for more "
        "segments or give your own."
    ),
    WarningKind.FEW_SAMPLES: (
        "{num_samples} samples are few for {num_segments} segments: the weights are mostly noise. "
        "Use at least {enough} samples, or fewer segments."
    ),
    WarningKind.NARROW_KERNEL: (
        "Most samples count for nothing: the {num_samples} samples weigh as much as "
        "{effective:.1f}. Raise kernel_width ({kernel_width:g} now) to suit the {distance} "
        "distance."
    ),
    WarningKind.CONSTANT: (
        "its probability is {probability:.4g} whatever is hidden, so there is nothing to explain."
    ),
    WarningKind.LITTLE_EFFECT: (
        "hiding everything moves its probability only from {probability:.3f} to {baseline:.3f}, so "
        "the weights say little; try another fill, such as {other}."
    ),
    WarningKind.WEAK_WEIGHTS: (
        "no segment matters by itself: the strongest weighs {weight:.3f} ± {std_error:.3f}; try "
        "larger segments, more samples, or another fill, such as {other}."
    ),
    WarningKind.POOR_FIT: (
        "the linear surrogate follows the model poorly here (R² {score:.2f}); do not rely on "
        "single weights."
    ),
    WarningKind.UNSTABLE: f"{_UNSTABLE}.",
    WarningKind.TIED: f"{_UNSTABLE}; segments {{ties}} are tied around place {{top_k}}.",
    WarningKind.DEADLINE: (
        "The deadline of {deadline_ms:g} ms passed after {num_samples} of {max_samples} samples."
    ),
}


@dataclass(frozen=True, slots=True)
class ExplanationWarning:
    """One reason not to trust an explanation; `str` makes it a sentence.

    Attributes:
        kind: Its kind.
        label: The label it concerns; None where it concerns the whole explanation.
        numbers: The numbers in the sentence, such as counts and limits.
    """

    kind: WarningKind
    label: int | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def sentence(self, labels: Sequence[str] = ()) -> str:
        """The warning in English.

        Args:
            labels: Names of the model's labels; unset: labels are called by their number.
        """
        text = _SENTENCES[self.kind].format(**self.numbers)
        if self.label is None:
            return text
        name = repr(labels[self.label]) if self.label < len(labels) else self.label
        return f"Label {name}: {text}"

    def __str__(self) -> str:
        return self.sentence()
