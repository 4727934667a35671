"""Compares explaining a folder with explaining its images one by one.

Both alternate in one run, on the same session: one by one as `limelens explain IMAGE` does it in
a loop, and as `limelens explain FOLDER` does it, where one image is read, classified and
segmented while another uses the model.

    python -m benchmarks.explain_bulk [--model FILE] [--images 12] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.speed_models import shipped_model
from limelens.cli.explain.several import NUM_PARALLEL_LOCALLY
from limelens.serve.client.in_process import local_client
from limelens.serve.tools.explain_report.explain_many import LabeledFile, explain_many
from limelens.train.synthetic import write_dataset


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--images", "--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    client = local_client(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), max(3, arguments.images), seed=0, size=640)
        paths = sorted(Path(folder).rglob("*.jpg"))[: arguments.images]
        places = [LabeledFile(path) for path in paths]

        def explained(num_parallel: int) -> Callable[[], None]:
            def run() -> None:
                for one in explain_many(
                    client, places, num_parallel=num_parallel, num_samples=arguments.samples, seed=0
                ):
                    if one.error:
                        raise RuntimeError(one.error)

            return run

        candidates = {"one by one": explained(1), "as a folder": explained(NUM_PARALLEL_LOCALLY)}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for round_ in range(arguments.rounds + 1):
            # In turns; each goes first in every other round.
            for name in sorted(candidates, reverse=round_ % 2 == 0):
                start = time.perf_counter()
                candidates[name]()
                if round_:  # the first is for warming up
                    times[name].append(time.perf_counter() - start)
    table = Table(title=f"{len(places)} images, {arguments.samples} samples each")
    table.add_column("what")
    table.add_column("ms an image", justify="right")
    table.add_column("by one by one", justify="right")
    for name, values in times.items():
        ratios = [mine / one for mine, one in zip(values, times["one by one"], strict=True)]
        table.add_row(
            name,
            f"{1000 * statistics.median(values) / len(places):.0f}",
            f"{statistics.median(ratios):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
