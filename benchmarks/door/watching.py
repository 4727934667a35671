"""Runs a server and `limelens watch` for some cameras, and keeps what it says of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.door.people import REGION
from limelens.cli.bench import serve_command
from limelens.serve.tools.load import started

_PATIENCE_S: Final = 120.0
_STATES: Final = ("alert", "clear")


@dataclass
class Said:
    """What was said of the cameras, as far as it is needed.

    Args:
        states: Camera, time, state and label of each change of a state.
        ages_s: Of each frame, from its capture to the line that says that it was answered.
        num_frames: Frames answered, by camera and since `begins_at`.
        begins_at: Nothing from before counts.
        num_classified: Frames classified in all.
        is_over: Whether nothing else comes.
    """

    states: list[tuple[str, float, str, str]] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    num_frames: dict[str, int] = field(default_factory=dict)
    begins_at: float = float("inf")
    num_classified: int = 0
    is_over: bool = False

    def hear(self, line: dict[str, Any]) -> None:
        """Takes a line."""
        camera, at = line["camera_id"], _seconds(line["time"])
        if line["type"] == "state":
            self.states.append((camera, at, line["state"], line["label"] or ""))
        elif line["type"] == "frame":
            self.num_classified += 1
            captured_at = _seconds(line["capture_time"]) if line["capture_time"] else 0.0
            if captured_at >= self.begins_at:
                self.ages_s.append(at - captured_at)
                self.num_frames[camera] = self.num_frames.get(camera, 0) + 1

    def decided(self) -> set[str]:
        """The cameras of which something was decided."""
        return {camera for camera, _, state, _ in list(self.states) if state in _STATES}


@dataclass(frozen=True)
class Running:
    """A server and a watch that run.

    Args:
        said: What the watch says.
        server_pid: The server's process.
        watch_pid: The watch's process.
    """

    said: Said
    server_pid: int
    watch_pid: int


@contextmanager
def watching(
    models: Path,
    sources: Sequence[str],
    *,
    rules: str,
    num_explaining: int = 0,
    num_threads: int = 2,
) -> Iterator[Running]:
    """Watches some cameras; returns once something was decided of each.

    Args:
        models: The folder of models with `facemask`.
        sources: The cameras.
        rules: Lines of `[defaults]`.
        num_explaining: Of how many cameras each change is explained.
        num_threads: Of the server.
    """
    command = serve_command(models, "--num-threads", str(num_threads))
    with tempfile.TemporaryDirectory() as folder, started(command) as server:
        config = Path(folder) / "door.toml"
        config.write_text(_config(server.address, sources, rules, num_explaining))
        with subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", "watch", str(config), "--jsonl"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            said = Said()
            reading = threading.Thread(target=_read, args=(process, said))
            reading.start()
            try:
                _wait(process, lambda: len(said.decided()) == len(sources))
                yield Running(said, server.pid, process.pid)
            finally:
                process.terminate()
                reading.join()


def _config(address: str, sources: Sequence[str], rules: str, num_explaining: int) -> str:
    box = [REGION.left, REGION.top, REGION.right, REGION.bottom]
    parts = [
        f'[server]\naddress = "{address}"\n',
        # A person's few frames come again and again.
        f'[defaults]\nmodel_name = "facemask"\nregion = {box}\nexplain = "never"\n'
        f"frozen_after_s = 0\n{rules}\n",
    ]
    for number, source in enumerate(sources):
        explain = 'explain = "changes"\n' if number < num_explaining else ""
        parts.append(f'[[camera]]\nid = "{number}"\nsource = "{source}"\n{explain}')
    return "\n".join(parts)


def _read(process: subprocess.Popen[str], said: Said) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.hear(json.loads(line))
    said.is_over = True


def _wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"limelens watch ended with exit code {process.returncode}")
        if time.monotonic() - began > _PATIENCE_S:
            raise TimeoutError(f"nothing was decided for {_PATIENCE_S:g} s")
        time.sleep(0.1)


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
