"""Runs a server like `limelens serve`, and prints its engine's counts at the end.

    python -m benchmarks.served MODELS [--max-queue 1000]

It prints the ready line, and after SIGTERM one line of JSON: images run, dropped, refused,
and run after their deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from dataclasses import asdict
from pathlib import Path

from limelens.serve.repository.model_repository import Repository
from limelens.serve.rpc.server import Server, ServerConfig, ready_line
from limelens.serve.rpc.server_config import ServiceSettings


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("--max-queue", type=int, default=1000)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.models, arguments.max_queue))


async def _serve(models: Path, max_queue: int) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    settings = ServiceSettings(max_queue=max_queue)
    config = ServerConfig(models, listen="127.0.0.1:0", device="cpu", service=settings)
    repository = Repository(models, "cpu")
    server = Server(config, repository)
    await server.start()
    print(ready_line(server.address, repository), flush=True)
    await stopping.wait()
    engine = server.runner.engine(repository.served[0].bundle)
    print(json.dumps(asdict(engine.counts)), flush=True)
    await server.stop()


if __name__ == "__main__":
    main()
