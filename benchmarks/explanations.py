"""Measures whether explanations point at the mask, on faces whose masked pixels are known.

For the label with_mask, over the images of the set `mask_regions`: whether the strongest supporting
segment lies on the mask (at least half of it), how much of the positive weight lies there, how well
the five strongest supporting segments cover it, and how well the surrogate fits: its R², and R² on
rows that it was not fitted to, by cross-validation. Compared with random segments, and the lime
package on the same model. Settings are chosen on one half of the set; the other half reports.

    LIMELENS_DATA=… python -m benchmarks.explanations [--hide mean blur shuffle references]
        [--segments 20 40] [--half choose] [--images 112]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from limelens.cli.serving import default_models
from limelens.explain import Explanation, Samples, check, explain
from limelens.explain.settings import ExplainMethod, HideName, References, SegmentationMethod
from limelens.explain.surrogate.ridge import r_squared, ridge
from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.image import Fitted, fit, read_image

_TOP = 5
_NUM_RANDOM: Final = 3  # random orders of each image: the mean is over many images
_NUM_FOLDS: Final = 8
_NUM_REFERENCES: Final = 64
_HALVES: Final[Mapping[str, slice]] = {
    "choose": slice(0, None, 2),
    "report": slice(1, None, 2),
    "all": slice(None),
}


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "2")
    parser.add_argument("--half", choices=_HALVES, default="all")
    parser.add_argument(
        "--images", "--pictures", type=int, default=112, help="how many, spread over the set"
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--hide", choices=get_args(HideName), nargs="+", default=["mean"])
    parser.add_argument("--method", choices=get_args(ExplainMethod), default="lime")
    parser.add_argument("--segmentation", choices=get_args(SegmentationMethod), default="slic")
    parser.add_argument(
        "--segments", type=int, nargs="+", default=[None], help="target number for slic and grid"
    )
    parser.add_argument("--fills", type=int, nargs="+", default=[None], help="fills of each row")
    parser.add_argument("--share", type=float, nargs="+", default=[None], help="hidden at a time")
    parser.add_argument(
        "--curves", choices=get_args(HideName), help="also deletion and insertion, with this fill"
    )
    parser.add_argument(
        "--lime", action=argparse.BooleanOptionalAction, default=True, help="the lime package too"
    )
    arguments = parser.parse_args()
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        sys.exit("LIMELENS_DATA is not set; it names the folder that holds mask_regions")
    bundle = load_bundle(arguments.model)
    label = bundle.labels.index("with_mask")
    references = None
    if "references" in (*arguments.hide, arguments.curves):
        references = reference_images(bundle, Path(folder))
    paths = sorted((Path(folder) / "mask_regions" / "images").iterdir())[_HALVES[arguments.half]]
    paths = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {}
    num_recognised = 0
    for path in paths:
        fitted = fit(read_image(path.read_bytes()), bundle.metadata.resize)
        mask = _mask(fitted, path)
        num_recognised += int(bundle.predict(fitted.pixels[np.newaxis])[0].argmax() == label)
        for hide, segments, fills, share in itertools.product(
            arguments.hide, arguments.segments, arguments.fills, arguments.share
        ):
            given = {"segments": segments, "fills": fills, "share": share}
            extra = [f"{value} {name}" for name, value in given.items() if value is not None]
            start = time.perf_counter()
            found = explain(
                fitted.pixels,
                bundle.predict,
                labels=[label],
                num_samples=arguments.samples,
                hide=hide,
                references=references,
                method=arguments.method,
                segmentation=arguments.segmentation,
                num_segments=segments,
                num_fills=fills,
                hidden_share=share,
                seed=0,
            )
            seconds = time.perf_counter() - start
            weights = {one.segment: one.weight for one in found.for_label(label).weights}
            scores = (*_scores(found.segments, weights, mask), *_fit(found, label), seconds)
            if arguments.curves:
                curves = check(
                    found,
                    bundle.predict,
                    fitted.pixels,
                    hide=arguments.curves,
                    num_random=_NUM_RANDOM,
                )
                scores += (curves.deletion_area, curves.insertion_area)
            rows.setdefault(", ".join([hide, *extra]), []).append(scores)
        shuffled = dict(zip(weights, rng.permutation(list(weights.values())), strict=True))
        scores = (*_scores(found.segments, shuffled, mask), *[np.nan] * 3)
        if arguments.curves:
            scores += (curves.random_deletion_area, curves.random_insertion_area)
        rows.setdefault("random order", []).append(scores)
        if arguments.lime:
            rows.setdefault("lime (quickshift)", []).append(
                _lime(bundle, label, fitted.pixels, mask, arguments.samples, len(scores))
            )
    table = Table(
        title=f"{bundle.name}, {arguments.half}: {len(paths)} masked faces, {num_recognised} of "
        f"them recognised, {arguments.samples} samples; ± one standard error"
    )
    table.add_column("explained by")
    columns = ["top segment on the mask", "positive weight on it", f"IoU of the top {_TOP}"]
    columns += ["median R²", "held-out R²", "seconds"]
    if arguments.curves:
        columns += ["deletion area", "insertion area"]
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *_cells(np.array(values)))
    Console(width=140).print(table)


def _cells(values: NDArray[np.float64]) -> list[str]:
    """Means with standard errors, but of R² and seconds medians."""
    errors = values.std(axis=0, ddof=1) / len(values) ** 0.5
    means, medians = values.mean(axis=0), np.median(values, axis=0)
    cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(means, errors, strict=True)]
    cells[3:6] = ["" if np.isnan(one) else f"{one:.2f}" for one in medians[3:6]]
    return cells


def _mask(fitted: Fitted, path: Path) -> NDArray[np.bool_]:
    with Image.open(path.parent.parent / "regions" / f"{path.stem}.png") as region:
        return np.asarray(fitted.from_source(np.asarray(region.convert("L"))) > 127)


def reference_images(bundle: Bundle, data: Path) -> References:
    """The bundle's; without golden images what it would have: equally many images of each label.

    Args:
        bundle: A model of faces with and without a mask.
        data: The folder of the data sets.
    """
    if bundle.references is not None:
        return bundle.references
    folder = data / "facemask" / "val"
    rng = np.random.default_rng(0)
    images, labels = [], []
    for label, name in enumerate(bundle.labels):
        paths = sorted((folder / name).iterdir())
        for place in rng.choice(len(paths), _NUM_REFERENCES // len(bundle.labels), replace=False):
            pixels = read_image(paths[place].read_bytes())
            images.append(fit(pixels, bundle.metadata.resize).pixels)
            labels.append(np.arange(len(bundle.labels)) == label)
    return np.stack(images), np.stack(labels)


def _fit(found: Explanation, label: int) -> tuple[float, float]:
    """R² of the surrogate, and by cross-validation: fitted to other rows than it is judged on."""
    score = found.for_label(label).score
    return score, _held_out(found.samples.by_row(), label) if found.method == "lime" else np.nan


def _held_out(rows: Samples, label: int) -> float:
    together = 2 if rows.sampling == "paired" else 1
    fold = np.arange(rows.weights.size) // together % _NUM_FOLDS
    target = rows.probabilities[:, [label]].astype(np.float64)
    residuals = target.copy()
    for one in range(_NUM_FOLDS):
        used, left = fold != one, fold == one
        fitted = ridge(rows.visible[used], target[used], rows.weights[used], rows.alpha)
        residuals[left] -= fitted.intercept + rows.visible[left] @ fitted.coefficients
    return float(r_squared(residuals, target, rows.weights)[0])


def _lime(
    bundle: Bundle,
    label: int,
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    num_samples: int,
    num_scores: int,
) -> tuple[float, ...]:
    from lime.lime_image import LimeImageExplainer

    start = time.perf_counter()
    theirs: Any = LimeImageExplainer(random_state=0).explain_instance(
        pixels, bundle.predict, labels=(label,), top_labels=None, num_samples=num_samples
    )
    seconds = time.perf_counter() - start
    weights = {int(k): float(v) for k, v in theirs.local_exp[label]}
    score = theirs.score[label] if isinstance(theirs.score, dict) else theirs.score
    scores = (*_scores(theirs.segments, weights, mask), float(score), np.nan, seconds)
    return scores + (np.nan,) * (num_scores - len(scores))


def _scores(
    segments: NDArray[np.integer], weights: Mapping[int, float], mask: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Hit (0 or 1), share of positive weight on the mask, IoU of the top five with it."""
    share = {segment: float(mask[segments == segment].mean()) for segment in weights}
    positive = {segment: weight for segment, weight in weights.items() if weight > 0}
    if not positive:
        return 0.0, 0.0, 0.0
    strongest = sorted(positive, key=lambda segment: -positive[segment])
    total = sum(positive.values())
    chosen = np.isin(segments, strongest[:_TOP])
    return (
        float(share[strongest[0]] >= 0.5),
        sum(weight * share[segment] for segment, weight in positive.items()) / total,
        float((chosen & mask).sum() / (chosen | mask).sum()),
    )


if __name__ == "__main__":
    main()
