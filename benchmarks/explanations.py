"""Whether explanations point at the mask: on faces where the masked pixels are known.

Over the pictures of the set `mask_regions`, for the label with_mask: does the segment that
supports it most lie on the mask (at least half of it), how much of the positive weight lies
there, and how well do the five strongest supporting segments cover it. Beside limelens, the lime
package on the same model, and segments drawn at random.

    LIMELENS_DATA=… python -m benchmarks.explanations [--model FILE] [--pictures 112]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from limelens.cli.serving import default_models
from limelens.explain import explain
from limelens.serve import load_bundle
from limelens.serve.image import fit, read_image

_TOP = 5


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "1")
    parser.add_argument("--pictures", type=int, default=112)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--hide", choices=["mean", "blur"], default="mean", help="limelens' fill")
    parser.add_argument("--no-lime", action="store_true", help="leave the lime package out")
    arguments = parser.parse_args()
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        sys.exit("LIMELENS_DATA is not set; it names the folder that holds mask_regions")
    bundle = load_bundle(arguments.model)
    label = bundle.labels.index("with_mask")
    paths = sorted((Path(folder) / "mask_regions" / "images").iterdir())[: arguments.pictures]
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    num_recognised = 0
    for path in paths:
        fitted = fit(read_image(path.read_bytes()), bundle.metadata.resize)
        with Image.open(path.parent.parent / "regions" / f"{path.stem}.png") as region:
            mask = fitted.from_source(np.asarray(region.convert("L"))) > 127
        num_recognised += int(bundle.predict(fitted.pixels[np.newaxis])[0].argmax() == label)
        found = explain(
            fitted.pixels,
            bundle.predict,
            labels=[label],
            num_samples=arguments.samples,
            hide=arguments.hide,
            seed=0,
        )
        weights = {one.segment: one.weight for one in found.for_label(label).weights}
        rows.setdefault("limelens", []).append(_scores(found.segments, weights, mask))
        shuffled = dict(zip(weights, rng.permutation(list(weights.values())), strict=True))
        rows.setdefault("random order", []).append(_scores(found.segments, shuffled, mask))
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
    for column in ("top segment on the mask", "positive weight on it", f"IoU of the top {_TOP}"):
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(f"{mean:.3f}" for mean in np.mean(values, axis=0)))
    Console().print(table)


def _scores(
    segments: NDArray[np.integer], weights: Mapping[int, float], mask: NDArray[np.bool_]
) -> tuple[float, float, float]:
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
