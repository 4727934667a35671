"""Counts what one image passes through in a server: modules, functions and calls of limelens.

    python -m benchmarks.walk [--models DIR]

A server here, a client in another process; a Classify and an Explain are traced with
Python's profiler hook, in all threads of the server. Times mean nothing here: tracing slows it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

from limelens.serve import Server, ServerConfig
from limelens.serve.repository.model_repository import Repository
from limelens.serve.tools.load import draw_image

MODELS: Final = Path(__file__).parents[1] / "models"
_REPEATS: Final = 6
_APART: Final = re.compile(
    r"_pb2|__create_fn__|<(listcomp|genexpr|setcomp|lambda)>|\.(pauses|load)\."
)
"""Stubs, comprehensions, the fields of dataclasses, what runs beside calls, and this program."""
_CALLS: Final = {
    "Classify": "client.classify([image])",
    "Explain": "client.explain(image, num_samples=20, seed=0)",
}


class Walk:
    """The functions of limelens that are called while it is open."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.is_open = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """See `sys.setprofile`."""
        if self.is_open and event == "call":
            module = frame.f_globals.get("__name__", "")
            name = frame.f_code.co_qualname
            if module.startswith("limelens.") and not _APART.search(f"{module}.{name}"):
                self.calls[module, name] += 1


def main() -> None:
    """Prints a line for each RPC."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="model repository")
    arguments = parser.parse_args()
    walk = Walk()
    threading.setprofile(walk)
    sys.setprofile(walk)
    asyncio.run(_measure(arguments.models, walk))


async def _measure(models: Path, walk: Walk) -> None:
    repository = Repository(models, "cpu")
    server = Server(ServerConfig(models, listen="127.0.0.1:0", device="cpu"), repository)
    await server.start()
    for rpc, code in _CALLS.items():
        walks = []
        for _ in range(_REPEATS):
            walk.calls.clear()
            walk.is_open = True
            await _call(server.address, code)
            walk.is_open = False
            walks.append(walk.calls.copy())
        # A thread that began before its hook was set is missed now and then: the longest walk
        # is the whole one.
        longest = max(walks, key=len)
        modules = {module for module, _ in longest}
        print(
            f"{rpc}: {len(modules)} modules, {len(longest)} functions, "
            f"{sum(longest.values())} calls"
        )
    await server.stop()


async def _call(address: str, code: str) -> None:
    program = (
        "import sys; from limelens.serve import Client; image = sys.stdin.buffer.read()\n"
        f"with Client({address!r}) as client: {code}"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE
    )
    await process.communicate(draw_image(160, 120, 0))
    assert process.returncode == 0


if __name__ == "__main__":
    main()
