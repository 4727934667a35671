"""Measures how soon explanations are stable: limelens and the lime package.

Stable means that the five strongest segments of two seeds have a Jaccard index of 0.9, in the
mean over pairs of seeds and images. Each seed of each tool runs once with the most samples; its
first samples show how many are enough (each tool draws the same first samples whatever their
number). Both then explain the images with as many samples as they need, alternating on the same
onnxruntime session. limelens draws paired rows, its default from 5 samples per segment. lime runs
twice: with its own segments, which are fewer and so easier to tell apart, and with limelens'
(slic), whose segmentation counts in its time.

    LIMELENS_DATA=… python -m benchmarks.explain_stability [--images 8] [--seeds 4]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lime import lime_base
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.explain_calibration import agreement, real_images
from limelens.cli.serving import default_models
from limelens.explain import Settings, explain
from limelens.explain.segmentation.cutting import cut
from limelens.explain.surrogate.fit import fit_labels
from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.image import fit, read_image

_TOP = 5
_SIZES = (100, 150, 200, 300, 450, 700, 1000, 1500, 2000, 3000, 4500, 6000)


class _Predict:
    """The bundle, as limelens calls it from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        self.max_concurrency = bundle.num_threads
        self._bundle = bundle

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._bundle.predict(images)


class _Recording(lime_base.LimeBase):  # type: ignore[misc]
    """lime's regression, which records its input."""

    given: tuple[Any, ...] = ()

    def explain_instance_with_data(self, *args: Any, **options: Any) -> Any:
        self.given = args[:3]
        return super().explain_instance_with_data(*args, **options)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "2")
    parser.add_argument("--images", "--pictures", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--most", type=int, default=_SIZES[-1], help="samples of a run at most")
    parser.add_argument("--rounds", type=int, default=2, help="of timing")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    sizes = [size for size in _SIZES if size <= arguments.most]
    images = [
        fit(read_image(path.read_bytes()), bundle.metadata.resize).pixels
        for path in real_images(arguments.images)
    ]
    tools: dict[str, tuple[_Tops, Callable[[NDArray[np.uint8], int], object]]] = {
        "limelens": (
            lambda image, seed: _our_tops(image, bundle, seed, sizes),
            lambda image, size: explain(
                image, _Predict(bundle), num_samples=size, sampling="paired", seed=0
            ),
        ),
        "lime, the same segments": (
            lambda image, seed: _lime_tops(image, bundle, seed, sizes, _slic),
            lambda image, size: _lime(image, bundle, 0, size, _slic),
        ),
        "lime, its own": (
            lambda image, seed: _lime_tops(image, bundle, seed, sizes),
            lambda image, size: _lime(image, bundle, 0, size),
        ),
    }
    stability = {
        name: [
            statistics.fmean(agreement(runs) for runs in at_size)
            for at_size in zip(
                *(_by_size(tops, image, arguments.seeds) for image in images), strict=True
            )
        ]
        for name, (tops, _) in tools.items()
    }
    needed = {name: _first(sizes, reached, arguments.target) for name, reached in stability.items()}
    times: dict[str, list[float]] = {name: [] for name in tools}
    for round_ in range(arguments.rounds + 1):
        for image in images if round_ else images[:1]:  # the first is for warming up
            for name, (_, run) in tools.items():
                start = time.perf_counter()
                run(image, needed[name] or sizes[-1])
                if round_:
                    times[name].append(time.perf_counter() - start)
    table = Table(
        title=f"{bundle.name}: top {_TOP} of {len(images)} images, {arguments.seeds} seeds each"
    )
    for column in ("", *map(str, sizes), f"samples for {arguments.target:g}", "seconds"):
        table.add_column(column, justify="right")
    seconds = {name: statistics.fmean(spent) for name, spent in times.items()}
    for name, reached in stability.items():
        table.add_row(
            name,
            *(f"{value:.2f}" for value in reached),
            str(needed[name] or f"over {sizes[-1]}"),
            f"{seconds[name]:.2f}" if needed[name] else f"over {seconds[name]:.2f}",
        )
    Console(width=140).print(table)
    for name in list(tools)[1:]:
        ratio = seconds[name] / seconds["limelens"]
        bound = "at least " if needed["limelens"] and not needed[name] else ""
        print(f"{name}: limelens is stable in a time {bound}{ratio:.1f} times shorter")
    if not needed["limelens"]:
        print(f"limelens is not stable with {sizes[-1]} samples: these times compare speed alone")


_Tops = Callable[[NDArray[np.uint8], int], list[set[int]]]


def _by_size(tops: _Tops, image: NDArray[np.uint8], num_seeds: int) -> list[list[set[int]]]:
    """The tops of all seeds, for each number of samples."""
    return list(map(list, zip(*(tops(image, seed) for seed in range(num_seeds)), strict=True)))


def _first(sizes: Sequence[int], reached: Sequence[float], target: float) -> int | None:
    """The samples at which the line between the sizes, on a logarithmic scale, meets the target."""
    for place, value in enumerate(reached):
        if value >= target:
            if place == 0:
                return sizes[0]
            before = reached[place - 1]
            share = (target - before) / (value - before)
            low, high = np.log(sizes[place - 1]), np.log(sizes[place])
            return round(float(np.exp(low + share * (high - low))))
    return None


def _our_tops(
    image: NDArray[np.uint8], bundle: Bundle, seed: int, sizes: Sequence[int]
) -> list[set[int]]:
    run = explain(image, _Predict(bundle), num_samples=sizes[-1], sampling="paired", seed=seed)
    found = []
    for size in sizes:
        samples = replace(
            run.samples,
            visible=run.samples.visible[:size],
            probabilities=run.samples.probabilities[:size],
            weights=run.samples.weights[:size],
        )
        (one,) = fit_labels(samples, (run.explanations[0].label,))
        found.append({weight.segment for weight in one.weights[:_TOP]})
    return found


_Segment = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def _slic(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """As limelens cuts by default."""
    return cut(image, Settings()).labels.astype(np.int64)


def _lime(
    image: NDArray[np.uint8], bundle: Bundle, seed: int, size: int, segment: _Segment | None = None
) -> tuple[_Recording, int]:
    explainer = LimeImageExplainer(random_state=seed)
    explainer.base = _Recording(explainer.base.kernel_fn, random_state=explainer.random_state)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        found = explainer.explain_instance(
            image, bundle.predict, top_labels=1, num_samples=size, segmentation_fn=segment
        )
    return explainer.base, int(found.top_labels[0])


def _lime_tops(
    image: NDArray[np.uint8],
    bundle: Bundle,
    seed: int,
    sizes: Sequence[int],
    segment: _Segment | None = None,
) -> list[set[int]]:
    base, label = _lime(image, bundle, seed, sizes[-1], segment)
    data, answers, distances = base.given
    found = []
    for size in sizes:
        _, weights, _, _ = base.explain_instance_with_data(
            data[:size], answers[:size], distances[:size], label, 100000
        )
        found.append({int(segment) for segment, _ in weights[:_TOP]})
    return found


if __name__ == "__main__":
    main()
