"""Whether an explanation is faithful: does the model follow the segments in the order it gives?

Deletion hides the segments that support the label most first; the faster the probability falls, the
better. Insertion begins with nothing and shows them first; the faster it rises, the better. An area
alone means nothing, so both are compared with random orders on the same model and fill. Knows
explanations and the model. Does not know how the weights were found.

    Petsiuk, Das, Saenko: RISE, BMVC 2018, section 4.1. https://arxiv.org/abs/1806.07421
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.explanation import Explanation
from limelens.explain.image import as_rgb
from limelens.explain.sampling.perturbation import perturbation, shown
from limelens.explain.sampling.prediction import Predict, Predictions, references_of
from limelens.explain.sampling.references import references_for
from limelens.explain.segmentation.segments import Segmentation, known
from limelens.explain.settings import VARYING_FILLS, Check, Hide, Settings, go_on


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Deletion and insertion curves of one label, and those of random orders.

    Attributes:
        label: Column of `predict`.
        hide: How hidden segments looked.
        changed_share: K + 1 numbers from 0 to 1, the share of the segments' pixels that have been
            hidden (deletion) or shown (insertion) at each point of the curves.
        deletion: K + 1 probabilities, from the whole image to nothing.
        insertion: K + 1 probabilities, from nothing to the whole image.
        random_deletion: The mean over random orders, at the same shares.
        random_insertion: Likewise.
        deletion_area: Area under `deletion`; small is good.
        insertion_area: Area under `insertion`; large is good.
        random_deletion_area: The mean over random orders.
        random_insertion_area: Likewise.
        random_deletion_spread: The standard deviation over random orders.
        random_insertion_spread: Likewise.
        num_random: How many random orders there were.
        num_samples: How many images were predicted.
        seed: The seed of the random orders.
    """

    label: int
    hide: Hide
    changed_share: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random_deletion: tuple[float, ...]
    random_insertion: tuple[float, ...]
    deletion_area: float
    insertion_area: float
    random_deletion_area: float
    random_insertion_area: float
    random_deletion_spread: float
    random_insertion_spread: float
    num_random: int
    num_samples: int
    seed: int

    @property
    def deletion_gain(self) -> float:
        """How much smaller the area is than that of random orders; above 0 is good."""
        return self.random_deletion_area - self.deletion_area

    @property
    def insertion_gain(self) -> float:
        """How much larger the area is than that of random orders; above 0 is good."""
        return self.insertion_area - self.random_insertion_area

    @property
    def better_than_random(self) -> bool:
        """Whether both areas beat the random mean by more than its spread."""
        return (
            self.deletion_gain > self.random_deletion_spread
            and self.insertion_gain > self.random_insertion_spread
        )

    def to_json(self) -> dict[str, Any]:
        """All of it in types that `json.dumps` takes."""
        gains = {
            "deletion_gain": self.deletion_gain,
            "insertion_gain": self.insertion_gain,
            "better_than_random": self.better_than_random,
        }
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in {**asdict(self), **gains}.items()
        }


def check(
    explanation: Explanation,
    predict: Predict,
    image: Any,
    *,
    label: int | None = None,
    hide: Hide | None = None,
    num_random: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    check: Check = go_on,
) -> Faithfulness:
    """Measure how faithful an explanation is.

    Predicts `2 (num_random + 1) (K + 1)` images, where fills differ `4 num_random (K + 1)`.

    Args:
        explanation: The explanation to check; segments without a weight count as 0.
        predict: The model that it explains.
        image: The image that it explains, `(H, W, 3)` or `(H, W)` uint8.
        label: The label to check; unset: the first explained.
        hide: How hidden segments look; unset: as in the explanation.
        num_random: How many random orders, 2 or more.
        seed: Of the random orders, and of fills that differ.
        batch_size: Images per call of `predict`; unset: as for `explain`.
        check: Called after every chunk; raising stops the run.

    Raises:
        InvalidArgumentError: Another image's size, or fewer than two random orders.
        UnknownLabelError: A label that was not explained.
        PredictionError: `predict` returned a wrong shape or non-finite numbers.
    """
    pixels = as_rgb(image, size=explanation.image_size)
    if num_random < 2:
        raise InvalidArgumentError(
            "num_random", f"num_random is {num_random}; expected at least 2, to know their spread"
        )
    if label is None:
        label = explanation.explanations[0].label
    weights = {one.segment: one.weight for one in explanation.for_label(label).weights}
    columns = explanation.samples.columns
    by_column = np.array([weights.get(int(segment), 0.0) for segment in columns])
    rng = np.random.default_rng(seed)
    best = np.argsort(-by_column, kind="stable")
    hide = explanation.hide if hide is None else hide
    # Fills that differ from image to image make curves jump; a mean over several is smooth.
    times = num_random if hide in VARYING_FILLS else 1
    random = [rng.permutation(columns.size) for _ in range(num_random)]
    orders = np.stack([best] * times + random)

    segmentation = known(explanation.segments, columns)
    sizes = np.bincount(segmentation.columns.ravel(), minlength=columns.size + 1)[:-1]
    shares = np.pad(np.cumsum(sizes[orders], axis=1) / sizes.sum(), ((0, 0), (1, 0)))
    places = np.argsort(orders, axis=1)[:, np.newaxis]
    changed = places < np.arange(columns.size + 1)[:, np.newaxis]  # (orders, K + 1, K)
    visible = np.stack([~changed, changed], axis=1).reshape(-1, columns.size)
    settings = Settings(batch_size=batch_size, hide=hide, check=check)
    references = explanation.references
    if hide == "references" and references is None:
        references = references_for(
            explanation.samples.probabilities[0], references_of(predict), pixels.shape[:2]
        )
    perturbed = perturbation(
        pixels,
        segmentation,
        settings.hide,
        num_samples=visible.shape[0],
        seed=seed,
        references=references,
    )
    predictions = Predictions(predict, perturbed, visible, settings)
    predictions.advance(visible.shape[0])
    probabilities = predictions.probabilities[:, label].astype(np.float64)
    curves = probabilities.reshape(orders.shape[0], 2, columns.size + 1)
    areas = np.asarray(np.trapezoid(curves, shares[:, np.newaxis, :], axis=2))
    at_ours = np.stack(
        [
            [np.interp(shares[0], share, curve) for curve in both]
            for share, both in zip(shares[times:], curves[times:], strict=True)
        ]
    ).mean(axis=0)
    ours = curves[:times].mean(axis=0)
    area, mean = areas[:times].mean(axis=0), areas[times:].mean(axis=0)
    spread = areas[times:].std(axis=0, ddof=1)
    return Faithfulness(
        label=label,
        hide=hide,
        changed_share=tuple(shares[0].tolist()),
        deletion=tuple(ours[0].tolist()),
        insertion=tuple(ours[1].tolist()),
        random_deletion=tuple(at_ours[0].tolist()),
        random_insertion=tuple(at_ours[1].tolist()),
        deletion_area=float(area[0]),
        insertion_area=float(area[1]),
        random_deletion_area=float(mean[0]),
        random_insertion_area=float(mean[1]),
        random_deletion_spread=float(spread[0]),
        random_insertion_spread=float(spread[1]),
        num_random=num_random,
        num_samples=visible.shape[0],
        seed=seed,
    )


def order_areas(
    image: NDArray[np.uint8],
    segmentation: Segmentation,
    orders: NDArray[np.intp],
    predict: Predict,
    label: int,
    others: NDArray[np.uint8],
    *,
    num_points: int = 6,
) -> NDArray[np.float64]:
    """Deletion and insertion areas of orders of segments, from a few points of each curve.

    For comparing explanations by different fills: a hidden segment shows what other images have
    there, which favours none of them. Predicts `2 B (num_points O + 1)` images.

    Args:
        image: `(H, W, 3)` uint8.
        segmentation: Its K segments.
        orders: `(O, K)`, each row the columns, first to last.
        predict: The model.
        label: Column of its probabilities.
        others: `(B, H, W, 3)` uint8, at most 16 images.
        num_points: Points of a curve between its ends.

    Returns:
        `(O, 2)`, areas under the deletion and the insertion curve, means over the B images.
    """
    num_orders, num_segments = orders.shape
    num_others = len(others)
    steps = np.unique(np.rint(np.linspace(0, num_segments, num_points + 2)).astype(np.intp))
    sizes = np.bincount(segmentation.columns.ravel(), minlength=num_segments + 1)[:-1]
    shares = np.pad(np.cumsum(sizes[orders], axis=1) / sizes.sum(), ((0, 0), (1, 0)))[:, steps]
    places = np.argsort(orders, axis=1)[:, np.newaxis]
    changed = places < steps[1:-1, np.newaxis]  # (O, P, K)
    ends = np.repeat([True, False], num_segments).reshape(2, num_segments)
    inner = np.stack([~changed, changed], axis=1).reshape(-1, num_segments)
    visible = np.repeat(np.concatenate([ends, inner]), num_others, axis=0)
    settings = Settings(hide=(0, 0, 0))
    perturbed = perturbation(image, segmentation, settings.hide, num_samples=visible.shape[0])
    perturbed = replace(perturbed, fill=shown(others, np.arange(visible.shape[0]) % num_others))
    predictions = Predictions(predict, perturbed, visible, settings)
    predictions.advance(visible.shape[0])
    of_label = predictions.probabilities[:, label].astype(np.float64)
    found = of_label.reshape(-1, num_others).mean(axis=1)
    whole, nothing = np.full((num_orders, 1), found[0]), np.full((num_orders, 1), found[1])
    deletion, insertion = np.moveaxis(found[2:].reshape(num_orders, 2, -1), 1, 0)
    curves = (
        np.concatenate([whole, deletion, nothing], axis=1),
        np.concatenate([nothing, insertion, whole], axis=1),
    )
    return np.stack([np.trapezoid(curve, shares, axis=1) for curve in curves], axis=1)
