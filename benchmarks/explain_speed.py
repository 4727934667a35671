"""Measures an explanation's cost beyond the model itself, and the cost of other packages.

The floor is the raw session on as many images: the fastest over chunk sizes, with one calling
thread or one per core. All rows alternate in one run, in another order each round. A ratio is the
median over rounds of a row's time divided by the floor's in the same round: on a shared machine
ratios can be trusted, milliseconds cannot. CPU time is hardly disturbed by other programs, but does
not show idle cores.

    python -m benchmarks.explain_speed [--model FILE …] [--samples 1000] [--rounds 5]
        [--seconds S] [--no-peers] [--hide references --segments 30]

Without --model: the shipped model, and two networks at 224 pixels that are made on the first run.
No further round of a model begins after --seconds. Peers other than lime need `pip install
'limelens[peers]'`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from benchmarks.speed_models import BUILT, NETWORKS, network_model, run_of, shipped_model
from benchmarks.speed_peers import missing, peers
from limelens.explain import Explanation, explain
from limelens.explain.sampling.perturbation import perturbation
from limelens.explain.sampling.references import MAX_REFERENCES
from limelens.explain.segmentation.segments import known
from limelens.explain.settings import HideName, References, SegmentationMethod, Settings
from limelens.serve import Region, load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.image import fit

_CHUNKS = (4, 8, 16, 32)
_PORTRAIT = Region(0.25, 0.03, 0.63, 0.41)
_WARMING_UP = 64
_COLUMNS = ("total", "by floor", "CPU by floor", "K", "segment", "predict", "masks", "fit")


@dataclass(eq=False)
class _Candidate:
    """A function to time.

    Args:
        name: Its row.
        run: Runs it with a number of samples; returns an explanation, a number of segments, or
            None.
        is_floor: Whether it is the model alone.
    """

    name: str
    run: Callable[[int], Explanation | int | None]
    is_floor: bool = False
    times: list[float] = field(default_factory=list)
    cpu_times: list[float] = field(default_factory=list)
    found: list[Explanation] = field(default_factory=list)
    num_segments: int | None = None

    def take_turn(self, num_samples: int) -> None:
        start, cpu_start = time.perf_counter(), time.process_time()
        found = self.run(num_samples)
        self.times.append(time.perf_counter() - start)
        self.cpu_times.append(time.process_time() - cpu_start)
        if isinstance(found, Explanation):
            self.found.append(found)
            self.num_segments = found.num_segments
        elif found is not None:
            self.num_segments = found


def main() -> None:
    """Measures and prints one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, action="append")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--hide", choices=get_args(HideName), default="mean")
    parser.add_argument("--segments", type=int, help="target number for slic")
    arguments = parser.parse_args()
    console = Console(width=120)
    if missing() and not arguments.no_peers:
        print(f"not installed: {', '.join(missing())}; pip install 'limelens[peers]'")
    for path in arguments.model or (shipped_model(), *map(network_model, NETWORKS)):
        bundle = load_bundle(path)
        settings = Settings(hide=arguments.hide, seed=0, references=_noise(bundle))
        candidates = _candidates(
            bundle, settings, arguments.segments, with_peers=not arguments.no_peers
        )
        for candidate in candidates:
            candidate.run(_WARMING_UP)
        rng = np.random.default_rng(0)
        start = time.monotonic()
        for round_ in range(arguments.rounds):
            if round_ and time.monotonic() - start > arguments.seconds:
                break
            for place in rng.permutation(len(candidates)):
                candidates[place].take_turn(arguments.samples)
        console.print(_table(bundle, candidates, arguments.samples))


def _noise(bundle: Bundle) -> References:
    """As many reference images as are used at most, of the label that the portrait has not."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (MAX_REFERENCES, *bundle.input_size, 3), dtype=np.uint8)
    top = int(bundle.predict(_portrait(bundle)[np.newaxis])[0].argmax())
    return images, np.full(
        (MAX_REFERENCES, len(bundle.labels)), np.arange(len(bundle.labels)) != top
    )


def _portrait(bundle: Bundle) -> NDArray[np.uint8]:
    return fit(astronaut(), bundle.metadata.resize, _PORTRAIT).pixels  # type: ignore[no-untyped-call]


def _candidates(
    bundle: Bundle, settings: Settings, num_segments: int | None, *, with_peers: bool
) -> list[_Candidate]:
    portrait = _portrait(bundle)

    def ours(segmentation: SegmentationMethod) -> Callable[[int], Explanation]:
        cut = num_segments if segmentation == "slic" else None
        return lambda num_samples: explain(
            portrait,
            bundle.predict,
            settings,
            num_samples=num_samples,
            segmentation=segmentation,
            num_segments=cut,
        )

    def one_thread(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return bundle.predict(images)

    found = [
        *(
            _Candidate(
                f"floor: chunks of {chunk}, {threads} thread{'s' * (threads > 1)}",
                _floor(bundle, chunk, threads),
                is_floor=True,
            )
            for chunk in _CHUNKS
            for threads in sorted({1, bundle.num_threads})
        ),
        _Candidate("limelens (slic)", ours("slic")),
        _Candidate("limelens (quickshift)", ours("quickshift")),
        _Candidate(
            "limelens (slic), one thread",
            lambda num_samples: explain(
                portrait,
                one_thread,
                settings,
                num_samples=num_samples,
                num_segments=num_segments,
                batch_size=bundle.batch_size,
            ),
        ),
    ]
    if with_peers:
        run = run_of(bundle.name) if BUILT.resolve() in bundle.path.resolve().parents else None
        others = peers(bundle, portrait, run, bundle.num_threads)
        found += [_Candidate(name, run) for name, run in others]
    return found


def _floor(bundle: Bundle, chunk: int, threads: int) -> Callable[[int], None]:
    images = np.random.default_rng(0).integers(
        0, 256, (chunk, *bundle.input_size, 3), dtype=np.uint8
    )

    def run(num_samples: int) -> None:
        sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
        with ThreadPoolExecutor(threads) as pool:
            list(
                pool.map(
                    lambda size: bundle.session.run(["probabilities"], {"images": images[:size]}),
                    sizes,
                )
            )

    return run


def _table(bundle: Bundle, candidates: Sequence[_Candidate], num_samples: int) -> Table:
    floors = [one for one in candidates if one.is_floor]
    floor = min(floors, key=lambda one: statistics.median(one.times))
    height, width = bundle.input_size
    thrifty = min(floors, key=lambda one: statistics.median(one.cpu_times))
    table = Table(
        title=f"{bundle.name} {height}x{width}, {num_samples} samples, {len(floor.times)} rounds, "
        f"{bundle.provider}; ms"
    )
    table.add_column("what")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for one in candidates:
        table.add_row(
            one.name,
            f"{1000 * statistics.median(one.times):.0f}",
            f"{_ratio(one.times, floor.times):.2f}",
            f"{_ratio(one.cpu_times, thrifty.cpu_times):.2f}",
            "" if one.num_segments is None else str(one.num_segments),
            *_stages(bundle, one.found),
        )
    return table


def _ratio(times: Sequence[float], floor: Sequence[float]) -> float:
    return statistics.median(one / best for one, best in zip(times, floor, strict=True))


def _stages(bundle: Bundle, found: Sequence[Explanation]) -> tuple[str, ...]:
    """Medians; masks, which are part of predict, are measured by themselves, on one thread."""
    if not found:
        return ()
    last = found[-1]
    visible = last.samples.visible
    cut = known(last.segments, last.samples.columns)
    image = np.zeros((*last.image_size, 3), dtype=np.uint8)
    perturbed = perturbation(
        image,
        cut,
        last.hide,
        num_samples=last.num_samples,
        sampling=last.sampling,
        references=last.references,
    )
    size = bundle.batch_size
    start = time.perf_counter()
    for first in range(0, last.num_samples, size):
        perturbed.images(visible[first : first + size], first)
    masks = 1000 * (time.perf_counter() - start)
    timings = [one.timings_ms for one in found]
    return (
        f"{statistics.median(one.segment for one in timings):.1f}",
        f"{statistics.median(one.predict for one in timings):.0f}",
        f"{masks:.1f}",
        f"{statistics.median(one.fit for one in timings):.1f}",
    )


if __name__ == "__main__":
    main()
