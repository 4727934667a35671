"""The results of explaining: plain, complete values.

Labels are column numbers of `predict`. Does not know how results are computed, nor names of labels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import UnknownLabelError
from limelens.explain.settings import ExplainMethod, Hide, Sampling
from limelens.explain.warning import ExplanationWarning


@dataclass(frozen=True, slots=True)
class SegmentWeight:
    """The effect of one segment on a label.

    Attributes:
        segment: Its id in `Explanation.segments`.
        weight: How much showing it raises the label's probability in the linear surrogate.
        std_error: Standard deviation of the weight over seeds; 0 if all seeds give the same.
    """

    segment: int
    weight: float
    std_error: float


@dataclass(frozen=True, slots=True)
class LabelExplanation:
    """The surrogate of one label (or of the difference between two).

    Attributes:
        label: Column of `predict`.
        against: The label that was subtracted, for a contrast; else None.
        probability: The model's, for the unperturbed image; the difference, for a contrast.
        intercept: The surrogate's value with every segment hidden.
        local_prediction: The surrogate's value with every segment visible.
        score: Weighted R² of the surrogate on the samples, at most 1.
        stability: The expected Jaccard index of the `top_k` heaviest segments of this run and one
            with another seed, 0 to 1.
        top_k: How many segments stability and ties concern.
        ties: Ids of the segments that may lie inside or outside of the top k, at 95 % confidence;
            empty if the cut is clear.
        weights: The segments, heaviest first.
        baseline: The model's probability with every segment hidden, a mean where fills differ from
            sample to sample; the difference, for a contrast. None where nobody predicted it.
    """

    label: int
    against: int | None
    probability: float
    intercept: float
    local_prediction: float
    score: float
    stability: float
    top_k: int
    ties: tuple[int, ...]
    weights: tuple[SegmentWeight, ...]
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent, by stage.

    Attributes:
        segment: Cutting the image.
        predict: Making the perturbed images and waiting for the model.
        fit: The surrogate and its uncertainty.
        total: All of it, checks included.
    """

    segment: float
    predict: float
    fit: float
    total: float


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """The neighbourhood that the surrogates were fitted on.

    Attributes:
        visible: `(N, K)` bool, which segments each sample shows; row 0 shows all.
        probabilities: `(N, C)` float, of all labels.
        weights: `(N,)` float64, each sample's weight in the fit: for lime its proximity, 0 to 1.
        columns: `(K,)` int32, the segment id of each column of `visible`.
        alpha: The ridge penalty of lime's fits.
        method: The method they were drawn for.
        sampling: How the rows were drawn.
        exact: Every seed gives these samples and predictions.
        hidden: `(F, C)` float, of all labels with every segment hidden, by each of F fills; no part
            of the fit. None where nobody predicted it.
        num_fills: Samples of one row: the same segments, in other fills. Rows follow each other;
            of paired ones, the samples of two alternate: z, 1 - z, z, 1 - z.
    """

    visible: NDArray[np.bool_]
    probabilities: NDArray[np.floating]
    weights: NDArray[np.float64]
    columns: NDArray[np.int32]
    alpha: float
    method: ExplainMethod = "lime"
    sampling: Sampling = "independent"
    exact: bool = False
    hidden: NDArray[np.floating] | None = None
    num_fills: int = 1

    def by_row(self) -> "Samples":
        """One sample for each row: its mean prediction over fills, and their weights together."""
        if self.num_fills == 1:
            return self
        together = 2 if self.sampling == "paired" else 1
        place = np.arange(self.visible.shape[0])
        # Of the last row there may be fewer samples, so rows are added up by where they begin.
        row = place // (together * self.num_fills) * together + place % together
        order = np.argsort(row, kind="stable")
        starts = np.flatnonzero(np.diff(row[order], prepend=-1))
        times = np.diff(starts, append=row.size)
        total = np.add.reduceat(self.probabilities[order], starts, axis=0, dtype=np.float64)
        return replace(
            self,
            visible=self.visible[order[starts]],
            probabilities=total / times[:, np.newaxis],
            weights=np.add.reduceat(self.weights[order], starts),
            num_fills=1,
        )


@dataclass(frozen=True, eq=False, slots=True)
class Explanation:
    """One image, explained.

    Attributes:
        image_size: H, W of the image.
        segments: `(H, W)` int32 segment ids.
        num_segments: K.
        num_samples: N, rows of `samples`, the unperturbed image among them.
        max_samples: How many samples there could have been at most.
        is_final: Whether no round with more samples follows.
        seed: Gives the same explanation again; None when a RandomState was handed in.
        explanations: One for each label, most probable first where `top_labels` chose.
        warnings: Reasons not to trust it; `str` makes sentences of them.
        timings_ms: Where the time went.
        samples: The raw material, for further labels or contrasts without further predictions.
        hide: How hidden segments looked.
        references: `(M, H, W, 3)` uint8, what "references" showed there; else None.
    """

    image_size: tuple[int, int]
    segments: NDArray[np.int32]
    num_segments: int
    num_samples: int
    max_samples: int
    is_final: bool
    seed: int | None
    explanations: tuple[LabelExplanation, ...]
    warnings: tuple[ExplanationWarning, ...]
    timings_ms: Timings
    samples: Samples = field(repr=False)
    hide: Hide = "mean"
    references: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def method(self) -> ExplainMethod:
        """How the segments were weighed."""
        return self.samples.method

    @property
    def sampling(self) -> Sampling:
        """How the samples were drawn: "paired" or "independent"."""
        return self.samples.sampling

    def for_label(self, label: int) -> LabelExplanation:
        """The explanation of one label.

        Raises:
            UnknownLabelError: The label was not explained.
        """
        for explanation in self.explanations:
            if explanation.label == label and explanation.against is None:
                return explanation
        explained = ", ".join(str(explanation.label) for explanation in self.explanations)
        raise UnknownLabelError(
            "label", f"Label {label} is not in this explanation, which explains {explained}"
        )


Weights = LabelExplanation | Iterable[SegmentWeight] | Mapping[int, float]
"""The input of drawings: an explanation, its weights, or weights by segment id."""


def ranked(weights: Weights) -> list[tuple[int, float]]:
    """Segment ids and weights by falling size, equal ones in the order given."""
    if isinstance(weights, LabelExplanation):
        weights = weights.weights
    if isinstance(weights, Mapping):
        pairs = [(int(segment), float(weight)) for segment, weight in weights.items()]
    else:
        pairs = [(one.segment, one.weight) for one in weights]
    return sorted(pairs, key=lambda pair: -abs(pair[1]))
