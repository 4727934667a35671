"""Measures whether a stopping server completes its calls: SIGTERM under load, many times.

Each time a server starts in its own process, is called without pause and gets SIGTERM. Calls that
began before the signal must be answered; later ones must be answered or get UNAVAILABLE; the exit
code must be 0.

    python -m benchmarks.drains [--drains 20] [--model MODEL.onnx] [--processes 2]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.swaps import publish
from benchmarks.traffic import Call, ServerProcess, Traffic
from limelens.cli.serving import default_models
from limelens.serve.errors import UnavailableError

_REFUSED = UnavailableError.__name__


@dataclass(frozen=True)
class Drain:
    """How one server stopped.

    Args:
        under_way: Calls in flight at the signal.
        later: Calls that began after the signal.
        answered: Number of calls that ended before the signal.
        exit_code: The server's.
        seconds: From the signal to the server's exit.
        errors: The server's stderr.
    """

    under_way: list[Call]
    later: list[Call]
    answered: int
    exit_code: int
    seconds: float
    errors: str

    @property
    def failed(self) -> list[Call]:
        """Lost calls: without a response, or refused with a status other than UNAVAILABLE."""
        lost = [one for one in self.later if one.error and not one.error.startswith(_REFUSED)]
        return [one for one in self.under_way if one.error] + lost


def drain_under_load(
    models: Path,
    image: NDArray[np.uint8],
    *,
    callers: int = 4,
    images_each: int = 32,
    num_samples: int = 1000,
    processes: int = 1,
) -> Drain:
    """Starts a server, calls it and stops it.

    Args:
        models: The model repository.
        image: The image of every call.
        callers: Number of callers that classify.
        images_each: Images in each of their calls.
        num_samples: Samples of each explanation.
        processes: Processes of the server.
    """
    options = ("--reload", "off", "--grace-s", "60", "--processes", f"{processes}")
    with ServerProcess(models, *options) as server:
        with Traffic(
            server.address,
            image,
            callers=callers,
            images_each=images_each,
            num_samples=num_samples,
            until_error=True,
        ) as traffic:
            traffic.wait_for(1, {"classify", "frame"})
            time.sleep(0.5)
            signalled_at = server.send_signal(signal.SIGTERM)
            traffic.join()
        exit_code, errors = server.end()
        seconds = time.monotonic() - signalled_at
    calls = [one for one in traffic.calls if one.kind in ("classify", "explain")]
    return Drain(
        under_way=[one for one in calls if one.began < signalled_at < one.ended],
        later=[one for one in calls if one.began >= signalled_at],
        answered=sum(1 for one in calls if one.ended <= signalled_at and not one.error),
        exit_code=exit_code,
        seconds=seconds,
        errors=errors,
    )


def main() -> None:
    """Measures and prints a summary; exit code 1 if a call was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=default_models() / "facemask/2/model.onnx")
    parser.add_argument("--drains", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="that serve")
    arguments = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), arguments.model, 1)
        drains = [
            drain_under_load(Path(folder), image, processes=arguments.processes)
            for _ in range(arguments.drains)
        ]
    failed = [call for drain in drains for call in drain.failed]
    codes = sorted({drain.exit_code for drain in drains})
    seconds = [drain.seconds for drain in drains]
    console = Console(width=120)
    console.print(
        f"{len(drains)} times SIGTERM under load: {sum(len(one.under_way) for one in drains)} "
        f"calls under way, {sum(len(one.later) for one in drains)} later ones, {len(failed)} lost; "
        f"{sum(one.answered for one in drains)} answered before; exit codes "
        f"{codes}; gone after {np.median(seconds):.2f} s (median), "
        f"{max(seconds):.2f} s (longest)"
    )
    for call in failed[:5]:
        console.print(f"{call.kind}: {call.error}")
    sys.exit(1 if failed or codes != [0] else 0)


if __name__ == "__main__":
    main()
