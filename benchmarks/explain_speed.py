"""How much an explanation costs beyond the model itself, and what the lime package costs.

The floor is the raw session on as many pictures: the best over chunk sizes and over one and two
calling threads. Everything is measured in turns in one run, the median is taken: on a shared
machine ratios can be trusted, milliseconds cannot.

    python -m benchmarks.explain_speed [--model FILE] [--samples 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from limelens.cli.serving import default_models
from limelens.explain import explain
from limelens.serve import Region, load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.image import fit

_CHUNKS = (8, 16, 32, 64)


class _Predict:
    """The bundle, as `explain` calls it from several threads."""

    def __init__(self, bundle: Bundle, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency
        self._bundle = bundle

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._bundle.predict(images)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "1")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    portrait = fit(astronaut(), bundle.metadata.resize, Region(0.25, 0.03, 0.63, 0.41)).pixels  # type: ignore[no-untyped-call]
    several = _Predict(bundle, bundle.num_threads)

    def ours(segmentation: Any, predict: Any) -> Callable[[], object]:
        return lambda: explain(
            portrait, predict, num_samples=arguments.samples, segmentation=segmentation, seed=0
        )

    candidates: dict[str, Callable[[], object]] = {
        f"floor: session, chunks of {chunk}, {threads} thread{'s' * (threads > 1)}": _floor(
            bundle, arguments.samples, chunk, threads
        )
        for chunk in _CHUNKS
        for threads in sorted({1, bundle.num_threads})
    }
    candidates["limelens, slic"] = ours("slic", several)
    candidates["limelens, slic, one thread"] = ours("slic", _Predict(bundle, 1))
    candidates["limelens, quickshift"] = ours("quickshift", several)
    candidates["lime (quickshift)"] = lambda: LimeImageExplainer(random_state=0).explain_instance(
        portrait, bundle.predict, num_samples=arguments.samples
    )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(arguments.rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if round_:  # the first is for warming up
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floor = min(value for name, value in medians.items() if name.startswith("floor"))
    height, width = bundle.input_size
    table = Table(
        title=f"{bundle.name} {height}x{width}, {arguments.samples} samples, {bundle.provider}"
    )
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("times the best floor", justify="right")
    for name, value in medians.items():
        table.add_row(name, f"{1000 * value:.0f}", f"{value / floor:.2f}")
    Console().print(table)


def _floor(bundle: Bundle, num_samples: int, chunk: int, threads: int) -> Callable[[], None]:
    images = np.random.default_rng(0).integers(
        0, 256, (chunk, *bundle.input_size, 3), dtype=np.uint8
    )
    sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda size: bundle.predict(images[:size]), sizes))

    return run


if __name__ == "__main__":
    main()
