"""Measures whether explanations point at the mask, on faces whose masked pixels are known.

For the label with_mask, over the images of the set `mask_regions`: whether the strongest supporting
segment lies on the mask (at least half of it), how much of the positive weight lies there, and how
well the five strongest supporting segments cover it. Compared with the lime package on the same
model, and with random segments.

    LIMELENS_DATA=… python -m benchmarks.explanations [--hide mean blur shuffle] [--images 112]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

import numpy as np
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from limelens.cli.serving import default_models
from limelens.explain import check, explain
from limelens.explain.settings import ExplainMethod, HideName, SegmentationMethod
from limelens.serve import load_bundle
from limelens.serve.image import fit, read_image

_TOP = 5
_NUM_RANDOM: Final = 3  # random orders of each image: the mean is over many images


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "1")
    parser.add_argument(
        "--images", "--pictures", type=int, default=112, help="how many, spread over the set"
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--hide", choices=get_args(HideName), nargs="+", default=["mean"])
    parser.add_argument("--method", choices=get_args(ExplainMethod), default="lime")
    parser.add_argument("--segmentation", choices=get_args(SegmentationMethod), default="slic")
    parser.add_argument("--segments", type=int, help="target number for slic and grid")
    parser.add_argument(
        "--curves", choices=get_args(HideName), help="also deletion and insertion, with this fill"
    )
    parser.add_argument("--no-lime", action="store_true", help="leave the lime package out")
    arguments = parser.parse_args()
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        sys.exit("LIMELENS_DATA is not set; it names the folder that holds mask_regions")
    bundle = load_bundle(arguments.model)
    label = bundle.labels.index("with_mask")
    paths = sorted((Path(folder) / "mask_regions" / "images").iterdir())
    paths = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {}
    num_recognised = 0
    for path in paths:
        fitted = fit(read_image(path.read_bytes()), bundle.metadata.resize)
        with Image.open(path.parent.parent / "regions" / f"{path.stem}.png") as region:
            mask = fitted.from_source(np.asarray(region.convert("L"))) > 127
        num_recognised += int(bundle.predict(fitted.pixels[np.newaxis])[0].argmax() == label)
        for hide in arguments.hide:
            found = explain(
                fitted.pixels,
                bundle.predict,
                labels=[label],
                num_samples=arguments.samples,
                hide=hide,
                method=arguments.method,
                segmentation=arguments.segmentation,
                num_segments=arguments.segments,
                seed=0,
            )
            weights = {one.segment: one.weight for one in found.for_label(label).weights}
            scores = _scores(found.segments, weights, mask)
            if arguments.curves:
                curves = check(
                    found,
                    bundle.predict,
                    fitted.pixels,
                    hide=arguments.curves,
                    num_random=_NUM_RANDOM,
                )
                scores += (curves.deletion_area, curves.insertion_area)
            rows.setdefault(f"limelens, {hide}", []).append(scores)
        shuffled = dict(zip(weights, rng.permutation(list(weights.values())), strict=True))
        scores = _scores(found.segments, shuffled, mask)
        if arguments.curves:
            scores += (curves.random_deletion_area, curves.random_insertion_area)
        rows.setdefault("random order", []).append(scores)
        if not arguments.no_lime:
            theirs = LimeImageExplainer(random_state=0).explain_instance(
                fitted.pixels,
                bundle.predict,
                labels=(label,),
                top_labels=None,
                num_samples=arguments.samples,
            )
            weights = {int(k): float(v) for k, v in theirs.local_exp[label]}
            rows.setdefault("lime (quickshift)", []).append(_scores(theirs.segments, weights, mask))
    table = Table(
        title=f"{bundle.name}: {len(paths)} masked faces, {num_recognised} of them recognised"
    )
    table.add_column("explained by")
    columns = ["top segment on the mask", "positive weight on it", f"IoU of the top {_TOP}"]
    if arguments.curves:
        columns += ["deletion area", "insertion area"]
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(f"{mean:.3f}" for mean in np.mean(values, axis=0)))
    Console().print(table)


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
