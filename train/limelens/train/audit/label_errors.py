"""Finds labels that are probably wrong, by confident learning.

Cross-validates a plain classifier on feature vectors; cleanlab compares its prediction for each
unseen image with the given label. Knows vectors and labels, not images.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""Below this, a classifier knows a label too little to judge it."""


@dataclass(frozen=True)
class LabelError:
    """An image whose label looks wrong.

    Args:
        index: Of the image.
        given: Its labels.
        suggested: What it seems to be.
        score: cleanlab's quality of the given label, 0 (surely wrong) to 1.
    """

    index: int
    given: tuple[int, ...]
    suggested: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """What was found.

    Args:
        errors: The most suspicious first.
        accuracy: Of the classifier on unseen images (multilabel: mean over labels and images);
            if it is low, the errors mean little.
        left_out: Labels that were not judged: too few images, or (multilabel) hardly known to the
            classifier.
    """

    errors: tuple[LabelError, ...]
    accuracy: float | None
    left_out: tuple[int, ...]


def find_label_errors(
    vectors: NDArray[np.floating],
    targets: Sequence[tuple[int, ...]],
    num_labels: int,
    *,
    multilabel: bool,
    seed: int = 0,
) -> LabelErrors:
    """Ranks the images whose labels disagree with images like them.

    Confident learning: Northcutt et al. 2021, as implemented by cleanlab.

    Args:
        vectors: `(N, D)`.
        targets: The labels of each image; exactly one if not multilabel.
        num_labels: C.
        multilabel: Whether each label is judged alone.
        seed: Of the folds.
    """
    find = _multilabel if multilabel else _multiclass
    return find(_compressed(vectors, seed), targets, num_labels, seed)


def _multiclass(
    vectors: NDArray[np.float64], targets: Sequence[tuple[int, ...]], num_labels: int, seed: int
) -> LabelErrors:
    given = np.array([own[0] for own in targets], dtype=np.int64)
    counts = np.bincount(given, minlength=num_labels)
    judged = np.flatnonzero(counts >= NUM_FOLDS)
    left_out = tuple(np.flatnonzero(counts < NUM_FOLDS).tolist())
    if len(judged) < 2:
        return LabelErrors((), None, left_out)
    rows = np.flatnonzero(np.isin(given, judged))
    compact = np.searchsorted(judged, given[rows])
    probabilities = _out_of_sample(vectors[rows], compact, seed)
    flagged, scores = _flagged(compact, probabilities)
    suggested = probabilities.argmax(axis=1)
    return LabelErrors(
        tuple(
            LabelError(
                int(rows[index]),
                (int(given[rows[index]]),),
                (int(judged[suggested[index]]),),
                float(scores[index]),
            )
            for index in flagged
            if suggested[index] != compact[index]
        ),
        float((suggested == compact).mean()),
        left_out,
    )


def _multilabel(
    vectors: NDArray[np.float64], targets: Sequence[tuple[int, ...]], num_labels: int, seed: int
) -> LabelErrors:
    table = np.zeros((len(targets), num_labels), dtype=np.int64)
    for row, own in zip(table, targets, strict=True):
        row[list(own)] = 1
    positive = table.sum(axis=0)
    left_out = np.flatnonzero(np.minimum(positive, len(table) - positive) < NUM_FOLDS)
    flips: dict[int, set[int]] = {}
    score_of: dict[int, float] = {}
    right: list[float] = []
    unclear: list[int] = []
    # Label by label, each against the rest, as cleanlab.multilabel_classification.
    for label in np.setdiff1d(np.arange(num_labels), left_out).tolist():
        given = table[:, label]
        probabilities = _out_of_sample(vectors, given, seed)
        if roc_auc_score(given, probabilities[:, 1]) < _LEAST_AUC:
            unclear.append(label)
            continue
        right.append(float((probabilities.argmax(axis=1) == given).mean()))
        flagged, scores = _flagged(given, probabilities)
        for index in flagged:
            flips.setdefault(index, set()).add(label)
            score_of[index] = min(score_of.get(index, 1.0), float(scores[index]))
    return LabelErrors(
        tuple(
            LabelError(
                index,
                targets[index],
                tuple(sorted(set(targets[index]) ^ flips[index])),
                score_of[index],
            )
            for index in sorted(flips, key=lambda index: score_of[index])
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


def _compressed(vectors: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    """The main components, computed once for all folds: they do not depend on labels."""
    most = min(_MOST_COMPONENTS, *vectors.shape)
    components: NDArray[np.float64] = make_pipeline(
        StandardScaler(), PCA(most, random_state=seed)
    ).fit_transform(np.asarray(vectors, dtype=np.float64))
    return components


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
