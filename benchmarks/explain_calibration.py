"""Measures whether the stability that an explanation reports is right.

An explanation reports the share of its five strongest segments that another seed would find. This
benchmark uses other seeds: over real images and several numbers of samples, it compares the
reported value with the mean Jaccard index of the top five between seeds. Each seed runs once, with
the largest number of samples; a smaller run is its beginning.

    LIMELENS_DATA=… python -m benchmarks.explain_calibration [--images 16] [--hide mean]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.explanations import reference_images
from limelens.cli.serving import default_models
from limelens.explain import Explanation, LabelExplanation, explain
from limelens.explain.settings import HideName, SamplingChoice
from limelens.explain.surrogate.fit import fit_labels
from limelens.serve import load_bundle
from limelens.serve.image import fit, read_image

SIZES = (250, 500, 1000, 2000)
_TOP = 5
_BINS = (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
    """Measures and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "2")
    parser.add_argument("--images", "--pictures", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hide", choices=get_args(HideName), default="mean")
    parser.add_argument("--segments", type=int)
    parser.add_argument("--method", choices=["lime", "kernel_shap", "rise"], default="lime")
    parser.add_argument("--sampling", choices=get_args(SamplingChoice), default="auto")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    references = reference_images(bundle, data_folder()) if arguments.hide == "references" else None
    stated: list[list[float]] = []
    measured: list[list[float]] = []
    for path in real_images(arguments.images):
        fitted = fit(read_image(path.read_bytes()), bundle.metadata.resize)
        runs = [
            explain(
                fitted.pixels,
                bundle.predict,
                num_samples=SIZES[-1],
                hide=arguments.hide,
                references=references,
                num_segments=arguments.segments,
                method=arguments.method,
                sampling=arguments.sampling,
                seed=seed,
            )
            for seed in range(arguments.seeds)
        ]
        stated.append([])
        measured.append([])
        for size in SIZES:
            shorter = [_beginning(run, size) for run in runs]
            stated[-1].append(float(np.mean([one.stability for one in shorter])))
            measured[-1].append(agreement([_top(one) for one in shorter]))
    _print(np.array(stated), np.array(measured), arguments, bundle.name)


def data_folder() -> Path:
    """The folder of the data sets."""
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        sys.exit("LIMELENS_DATA is not set; it names the folder that holds mask_regions")
    return Path(folder)


def real_images(count: int) -> list[Path]:
    """Images of the set `mask_regions`, spread over all of it."""
    paths = sorted((data_folder() / "mask_regions" / "images").iterdir())
    return paths[:: max(1, len(paths) // count)][:count]


def agreement(tops: Sequence[set[int]]) -> float:
    """The mean Jaccard index of all pairs."""
    pairs = itertools.combinations(tops, 2)
    return float(np.mean([len(one & other) / len(one | other) for one, other in pairs]))


def _beginning(run: Explanation, size: int) -> LabelExplanation:
    samples = replace(
        run.samples,
        visible=run.samples.visible[:size],
        probabilities=run.samples.probabilities[:size],
        weights=run.samples.weights[:size],
    )
    (found,) = fit_labels(samples, (run.explanations[0].label,))
    return found


def _top(one: LabelExplanation) -> set[int]:
    return {weight.segment for weight in one.weights[:_TOP]}


def _print(
    stated: NDArray[np.float64], measured: NDArray[np.float64], arguments: Any, name: str
) -> None:
    console = Console(highlight=False)
    how = f"{arguments.method}, {arguments.hide}, {arguments.sampling}"
    table = Table(
        title=f"{name}: {len(stated)} images, {arguments.seeds} seeds, {how}",
    )
    table.add_column("samples", justify="right")
    for column in ("stated", "measured", "gap"):
        table.add_column(column, justify="right")
    for size, one, other in zip(SIZES, stated.mean(axis=0), measured.mean(axis=0), strict=True):
        table.add_row(str(size), f"{one:.3f}", f"{other:.3f}", f"{one - other:+.3f}")
    console.print(table)
    table = Table(title="by stated stability (an image at a number of samples)")
    for column in ("stated from", "to", "cases", "mean stated", "mean measured", "gap"):
        table.add_column(column, justify="right")
    for low, high in itertools.pairwise(_BINS):
        inside = (stated >= low) & ((stated < high) | (high == _BINS[-1]))
        if inside.any():
            one, other = stated[inside].mean(), measured[inside].mean()
            table.add_row(
                f"{low:.1f}",
                f"{high:.1f}",
                str(np.count_nonzero(inside)),
                f"{one:.3f}",
                f"{other:.3f}",
                f"{one - other:+.3f}",
            )
    console.print(table)
    flat = np.corrcoef(stated.ravel(), measured.ravel())[0, 1]
    console.print(
        f"correlation {flat:.2f}, mean gap {np.mean(stated - measured):+.3f}, mean absolute gap "
        f"{np.mean(np.abs(stated - measured)):.3f}"
    )


if __name__ == "__main__":
    main()
