"""Finds labels that are probably wrong, by confident learning.

Cross-validates a plain classifier on feature vectors; cleanlab compares its prediction for each
held-out image with the given label. Knows vectors and labels, not images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUM_FOLDS: Final = 5
_MOST_COMPONENTS: Final = 64
_LEAST_AUC: Final = 0.75
"""Below this, a classifier is too weak to judge a label."""


@dataclass(frozen=True)
class LabelError:
    """An image whose label looks wrong.

    Args:
        suggested: What it seems to be.
        score: Quality of the given label by cleanlab, 0 (surely wrong) to 1.
    """

    index: int
    suggested: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """What was found.

    Args:
        errors: The most suspicious first.
        accuracy: Of the classifier on held-out images (multilabel: mean over labels and images); if
            it is low, the errors mean little.
        left_out: Labels that were not checked: too few images, or (multilabel) too hard for the
            classifier.
    """

    errors: tuple[LabelError, ...]
    accuracy: float | None
    left_out: tuple[int, ...]


def find_label_errors(
    vectors: NDArray[np.floating], targets: NDArray[np.int64], num_labels: int, seed: int = 0
) -> LabelErrors:
    """Ranks the images whose labels disagree with images like them.

    Confident learning: Northcutt et al. 2021, as implemented by cleanlab.

    Args:
        vectors: `(N, D)`.
        targets: As `targets_of`: `(N,)`, or `(N, C)`; then each label is checked alone.
        num_labels: C.
        seed: The seed of the folds.
    """
    # The main components, computed once for all folds: they do not depend on labels.
    most = min(_MOST_COMPONENTS, *vectors.shape)
    components = make_pipeline(StandardScaler(), PCA(most, random_state=seed)).fit_transform(
        np.asarray(vectors, dtype=np.float64)
    )
    if targets.ndim > 1:
        return _multilabel(components, targets, seed)
    return _multiclass(components, targets, num_labels, seed)


def _multiclass(
    vectors: NDArray[np.float64], given: NDArray[np.int64], num_labels: int, seed: int
) -> LabelErrors:
    counts = np.bincount(given, minlength=num_labels)
    checked = np.flatnonzero(counts >= NUM_FOLDS)
    left_out = tuple(np.flatnonzero(counts < NUM_FOLDS).tolist())
    if len(checked) < 2:
        return LabelErrors((), None, left_out)
    rows = np.flatnonzero(np.isin(given, checked))
    compact = np.searchsorted(checked, given[rows])
    probabilities = _out_of_sample(vectors[rows], compact, seed)
    flagged, scores = _flagged(compact, probabilities)
    suggested = probabilities.argmax(axis=1)
    return LabelErrors(
        tuple(
            LabelError(int(rows[index]), (int(checked[suggested[index]]),), float(scores[index]))
            for index in flagged
            if suggested[index] != compact[index]
        ),
        float((suggested == compact).mean()),
        left_out,
    )


def _multilabel(vectors: NDArray[np.float64], table: NDArray[np.int64], seed: int) -> LabelErrors:
    positive = table.sum(axis=0)
    left_out = np.flatnonzero(np.minimum(positive, len(table) - positive) < NUM_FOLDS)
    suggested = table.copy()
    score_of: dict[int, float] = {}
    right: list[float] = []
    unclear: list[int] = []
    # Label by label, each against the rest, as cleanlab.multilabel_classification.
    for label in np.setdiff1d(np.arange(table.shape[1]), left_out).tolist():
        given = table[:, label]
        probabilities = _out_of_sample(vectors, given, seed)
        if roc_auc_score(given, probabilities[:, 1]) < _LEAST_AUC:
            unclear.append(label)
            continue
        right.append(float((probabilities.argmax(axis=1) == given).mean()))
        flagged, scores = _flagged(given, probabilities)
        for index in flagged:
            suggested[index, label] ^= 1
            score_of[index] = min(score_of.get(index, 1.0), float(scores[index]))
    return LabelErrors(
        tuple(
            LabelError(index, tuple(np.flatnonzero(suggested[index]).tolist()), score_of[index])
            for index in sorted(score_of, key=lambda index: score_of[index])
        ),
        float(np.mean(right)) if right else None,
        tuple(sorted([*left_out.tolist(), *unclear])),
    )


def _flagged(
    given: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[list[int], NDArray[np.float64]]:
    """The images whose labels look wrong, the worst first, and the quality of all labels."""
    # Imported here: it takes seconds.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    flagged = find_label_issues(
        given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return flagged.tolist(), get_label_quality_scores(given, probabilities)


def _out_of_sample(
    vectors: NDArray[np.float64], given: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """`(N, C)` probabilities, each from a model that did not see the image."""
    classifier = LogisticRegression(C=0.1, max_iter=2000)
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    found: NDArray[np.float64] = cross_val_predict(
        classifier, vectors, given, cv=folds, method="predict_proba"
    )
    return found
