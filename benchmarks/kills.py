"""Measures what a killed process of a server costs: kill -9 under load, for each kind of process.

A server of several processes is called without pause on connections of their own. A process is
killed; then the time is taken until as many processes are there again and every new connection is
answered. Every answer is compared with a session of this process. Exit code 1 where an answer was
wrong, a call hung, or a status was not UNAVAILABLE.

    python -m benchmarks.kills [--kills 5] [--processes 2] [--device cuda] [--model MODEL.onnx]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.swaps import publish
from benchmarks.traffic import ServerProcess
from limelens.cli.serving import default_models
from limelens.serve import load_bundle
from limelens.serve.errors import LimelensError
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc
from limelens.v1 import image_pb2

_REQUIRED_S: Final = 3.0
_PROBES: Final = 30
_PAUSE_S: Final = 6.0  # a server that keeps losing processes replaces them more slowly
_HANGS_S: Final = 30.0
_MOST_S: Final = 60.0
_TOLERANCE: Final = 1e-3


@dataclass
class Kills:
    """What became of the kills of one kind of process.

    Args:
        layout: The options of the server.
        kind: What was killed.
        whole_s: Seconds until the server was whole again, one for each kill.
        statuses: Of calls that failed.
        answered: Calls with the right answer.
        wrong: Calls with another one.
    """

    layout: str
    kind: str
    whole_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    wrong: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether no answer was wrong and no call ended in another way than UNAVAILABLE."""
        return not self.wrong and {*self.statuses} <= {"UNAVAILABLE"}


class _Calls:
    """The same call on any connection, and what its answer should be."""

    def __init__(self, model: Path) -> None:
        bundle = load_bundle(model, "cpu")
        height, width = bundle.input_size
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        raw = image_pb2.RawImage(data=pixels.tobytes(), height=height, width=width)
        self._request = service_pb2.ClassifyRequest(images=[image_pb2.Image(raw=raw)])
        expected = bundle.predict(pixels[np.newaxis])[0]
        self._expected = dict(zip(bundle.labels, expected.tolist(), strict=True))

    def make(self, stub: Any) -> str:
        """Calls once: `right`, `wrong`, or the name of a status."""
        try:
            reply = stub.Classify(self._request, timeout=_HANGS_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        found = {one.label: one.probability for one in reply.predictions[0].scores}
        near = all(abs(found[label] - p) <= _TOLERANCE for label, p in self._expected.items())
        return "right" if near else "wrong"


def _stub(address: str, channels: list[grpc.Channel]) -> Any:
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    channels.append(grpc.insecure_channel(address, options))
    return service_grpc.ClassifierServiceStub(channels[-1])  # type: ignore[no-untyped-call]


def _listens(pid: int, address: str) -> bool:
    """Whether a process listens at an address."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    with suppress(OSError):  # it has just ended
        tables = [Path(f"/proc/{pid}/net/{kind}").read_text() for kind in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}
        return any(str(one.readlink()) in sockets for one in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _is_whole(server: ServerProcess, calls: _Calls, killed: int, counts: tuple[int, bool]) -> bool:
    """Whether all processes are there, and new connections are answered by all."""
    workers, owner = server.workers, server.owner
    if killed in (*workers, owner) or (len(workers), bool(owner)) != counts:
        return False
    if not all(_listens(worker, server.address) for worker in workers):
        return False
    channels: list[grpc.Channel] = []
    try:
        return all(calls.make(_stub(server.address, channels)) == "right" for _ in range(_PROBES))
    finally:
        for one in channels:
            one.close()


def _seconds_until(is_whole: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not is_whole():
        if time.monotonic() - began > _MOST_S:
            raise LimelensError(f"the server is not whole after {_MOST_S:g} seconds")
        time.sleep(0.02)
    return time.monotonic() - began


def kill_under_load(
    models: Path,
    model: Path,
    options: Sequence[str],
    find: Callable[[ServerProcess], int],
    kills: Kills,
    *,
    count: int,
    callers: int,
) -> None:
    """Starts a server and kills one of its processes again and again, under load.

    Args:
        models: The repository.
        model: The file of its only model.
        options: More of `limelens serve`.
        find: A process of the kind.
        kills: Takes the outcome.
        count: How many kills.
        callers: On a connection each.

    Raises:
        LimelensError: The server did not become whole again.
    """
    calls = _Calls(model)
    with ServerProcess(models, "--log-level", "error", *options) as server:
        is_over = threading.Event()
        channels: list[grpc.Channel] = []
        lock = threading.Lock()

        def call(stub: Any) -> None:
            while not is_over.is_set():
                outcome = calls.make(stub)
                with lock:
                    kills.answered += outcome == "right"
                    kills.wrong += outcome == "wrong"
                    if outcome not in ("right", "wrong"):
                        kills.statuses[outcome] += 1
                if outcome not in ("right", "wrong"):
                    time.sleep(0.02)

        stubs = [_stub(server.address, channels) for _ in range(callers)]
        threads = [threading.Thread(target=call, args=(one,), daemon=True) for one in stubs]
        for one in threads:
            one.start()
        counts = len(server.workers), bool(server.owner)
        for _ in range(count):
            time.sleep(_PAUSE_S)
            killed = find(server)
            os.kill(killed, signal.SIGKILL)
            is_whole = partial(_is_whole, server, calls, killed, counts)
            kills.whole_s.append(_seconds_until(is_whole))
        is_over.set()
        for one in threads:
            one.join(2 * _HANGS_S)
        for channel in channels:
            channel.close()


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=default_models() / "facemask/2/model.onnx")
    parser.add_argument("--kills", type=int, default=5, help="of each kind of process")
    parser.add_argument("--processes", type=int, default=2, help="that serve")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    usual = ("--processes", f"{arguments.processes}", "--device", arguments.device)
    kinds: list[tuple[str, tuple[str, ...], Callable[[ServerProcess], int]]] = [
        ("worker", (), lambda server: server.workers[0]),
        ("worker", ("--device-process",), lambda server: server.workers[0]),
        ("owner of the device", ("--device-process",), lambda server: server.owner),
    ]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        publish(models, arguments.model, 1)
        for kind, options, find in kinds:
            kills = Kills(" ".join((*usual, *options)), kind)
            kill_under_load(
                *(models, arguments.model, (*usual, *options), find, kills),
                count=arguments.kills,
                callers=arguments.callers,
            )
            found.append(kills)
    table = Table("killed", "layout", "whole again, s (most)", "required", "right", "wrong")
    table.add_column("failed")
    for one in found:
        seconds = f"{np.median(one.whole_s):.1f} ({max(one.whole_s):.1f})"
        failed = ", ".join(f"{count} {name}" for name, count in one.statuses.items()) or "none"
        cells = (one.kind, one.layout, seconds, f"<= {_REQUIRED_S:g}", f"{one.answered}")
        table.add_row(*cells, f"{one.wrong}", failed)
    Console(width=140).print(table)
    sys.exit(0 if all(one.is_sound for one in found) else 1)


if __name__ == "__main__":
    main()
