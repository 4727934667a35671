"""The baseline: what the model predicts with every segment hidden.

A weight says how the probability moves when a segment is hidden; the baseline says how far it can
move. Knows samples that are predicted, and how to predict a few more beside them. Does not know
the fit: baselines are no part of it, unless the design holds the row anyway.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limelens.explain.sampling.perturbation import Perturbation
from limelens.explain.sampling.prediction import Predict, Predictions
from limelens.explain.settings import Settings

NUM_FILLS = 8
"""How many different fills are averaged, where each sample has its own."""


def hidden_probabilities(
    predict: Predict,
    perturbed: Perturbation,
    visible: NDArray[np.bool_],
    predictions: Predictions,
    settings: Settings,
) -> NDArray[np.floating]:
    """The model's probabilities with every segment hidden.

    Costs nothing where all samples share one fill and the second of them hides everything, as in
    paired designs; otherwise one prediction, or `NUM_FILLS` where the fills differ.

    Args:
        predict: The model.
        perturbed: Makes the samples' images.
        visible: `(N, K)` bool, the design.
        predictions: Those of the design so far.
        settings: Those of the explanation.

    Returns:
        `(F, C)` probabilities, one row for each fill.

    Raises:
        PredictionError: `predict` returned a wrong shape or non-finite numbers.
    """
    fill = perturbed.fill
    if fill.corners is None:
        if predictions.num_done > 1 and not visible[1].any():
            return predictions.probabilities[1:2]
        alone, num_fills = perturbed, 1
    else:
        # Both samples of a pair have the same fill.
        corners = fill.corners[:: 2 if perturbed.paired else 1][:NUM_FILLS]
        alone, num_fills = replace(perturbed, fill=replace(fill, corners=corners)), len(corners)
    nothing = np.zeros((num_fills, visible.shape[1]), dtype=np.bool_)
    quiet = replace(settings, progress=None)
    more = Predictions(predict, replace(alone, paired=False), nothing, quiet)
    more.advance(num_fills)
    return more.probabilities
