"""Measures the memory of an explanation, by the number of samples, compared with lime.

Each value is the growth of the largest resident set during the explanation, in a separate process
that has explained with few samples before.

    python -m benchmarks.explain_memory [--model FILE] [--samples 1000 10000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from skimage.data import astronaut

from benchmarks.speed_models import shipped_model
from limelens.explain import explain
from limelens.serve import Region, load_bundle
from limelens.serve.image import fit

_TOOLS = ("limelens", "lime")
_FEW = 50
_PORTRAIT = Region(0.25, 0.03, 0.63, 0.41)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--alone", choices=_TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(_growth_mib(arguments.alone, arguments.model, arguments.samples[0]))
        return
    table = Table(title=f"growth of the largest resident set in MiB, {arguments.model}")
    table.add_column("samples", justify="right")
    for tool in _TOOLS:
        table.add_column(tool, justify="right")
    for num_samples in arguments.samples:
        row = [_measured(tool, arguments.model, num_samples) for tool in _TOOLS]
        table.add_row(f"{num_samples:,}", *(f"{growth:.1f}" for growth in row))
    Console().print(table)


def _measured(tool: str, model: Path, num_samples: int) -> float:
    """In a separate process: memory left by another explanation would hide this one's growth."""
    command = [sys.executable, "-m", "benchmarks.explain_memory", "--alone", tool]
    command += ["--model", str(model), "--samples", str(num_samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _growth_mib(tool: str, model: Path, num_samples: int) -> float:
    from lime.lime_image import LimeImageExplainer

    bundle = load_bundle(model)
    image = fit(astronaut(), bundle.metadata.resize, _PORTRAIT).pixels  # type: ignore[no-untyped-call]

    def run(count: int) -> None:
        if tool == "limelens":
            explain(image, bundle.predict, num_samples=count, seed=0)
        else:
            LimeImageExplainer(random_state=0).explain_instance(
                image, bundle.predict, num_samples=count
            )

    run(_FEW)
    before = _largest_mib()
    run(num_samples)
    return _largest_mib() - before


def _largest_mib() -> float:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
