"""limelens and other model servers: the same handler, the same model, in alternating rounds.

Each peer is installed from the package index into its own environment under build/peers/ (up to
3 GB together; --clean removes them afterwards). A peer that cannot be installed or started is left
out, with the reason.

    python -m benchmarks.peers [--rounds 5] [--seconds 3] [--peers litserve mlserver …] [--clean]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.peers.sending import Target, ask_once, http_request, send
from benchmarks.untrained import network_model, repository_of
from limelens.cli.bench import serve_command
from limelens.serve.errors import LimelensError
from limelens.serve.tools.load import Watch, draw_image, measure_floor, started
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

_APPS: Final = Path(__file__).parent / "apps"
_FOLDER: Final = Path("build/peers").absolute()
_CALLERS: Final = (1, 8, 32)
_INSTALL_S: Final = 900
_START_S: Final = 90.0
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_CLASSIFY: Final = "/limelens.v1.ClassifierService/Classify"
_BOUNDARY: Final = "limelensboundary"
_SHARED: Final = ("onnxruntime", "pillow", "simplejpeg", "numpy")


@dataclass(frozen=True)
class Peer:
    """Another server.

    Args:
        packages: The packages to install; the first gives the version.
        over_grpc: Whether it is called by the Open Inference Protocol; else over HTTP.
        path: Of HTTP.
        as_form: Whether HTTP carries a form; else the image itself.
    """

    packages: tuple[str, ...]
    over_grpc: bool = True
    path: str = "/"
    as_form: bool = False


PEERS: Final = {
    "litserve": Peer(("litserve", "python-multipart"), False, "/predict", as_form=True),
    # Its workers ask for an event loop in a way that newer uvloops refuse.
    "mlserver": Peer(("mlserver", "uvloop<0.22")),
    "kserve": Peer(("kserve",)),
    "triton": Peer(("nvidia-pytriton",)),
    "ray": Peer(("ray[serve]",), False),
}


@dataclass(frozen=True)
class Running:
    """A running server."""

    name: str
    target: Target
    watch: Watch
    start_s: float


@dataclass
class Measured:
    """The measurements of one server, by callers."""

    throughput: dict[int, list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)
    failed: int = 0


def main() -> None:
    """Installs, starts, measures in alternating rounds and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument(
        "--decoder",
        choices=["pillow", "simplejpeg"],
        default="pillow",
        help="of the peers; limelens reads images of the network's size by simplejpeg itself",
    )
    parser.add_argument("--clean", action="store_true", help="remove the environments afterwards")
    arguments = parser.parse_args()
    os.environ["PEER_DECODER"] = arguments.decoder
    # As an exception: the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    model = network_model("mobilenet_v3_small").absolute()
    models = repository_of(model)
    images = tuple(draw_image(224, 224, seed) for seed in range(8))
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_limelens(models, images))]
        for name in arguments.peers:
            try:
                _install(name, PEERS[name])
                servers.append(stack.enter_context(_peer(name, PEERS[name], model, images)))
            except (LimelensError, subprocess.SubprocessError, OSError) as error:
                left_out[name] = str(error).strip().splitlines()[-1]
        measured = {one.name: Measured() for one in servers}
        for round_ in range(arguments.rounds):
            print(f"round {round_ + 1} of {arguments.rounds} …", file=sys.stderr)
            # Another one first in each round, so that not always the same server follows the floor.
            first = round_ % len(servers)
            in_turn = servers[first:] + servers[:first]
            for callers in _CALLERS:
                _measure(in_turn, measured, model, images, callers, arguments.seconds)
        _print(servers, measured, left_out)
    if arguments.clean:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def _measure(
    servers: list[Running],
    measured: dict[str, Measured],
    model: Path,
    images: tuple[bytes, ...],
    callers: int,
    seconds: float,
) -> None:
    floor = measure_floor(model, images, seconds)
    for one in servers:
        sent = send(one.target, callers, seconds, one.watch.begin, one.watch.end)
        usage = one.watch.usage
        found = measured[one.name]
        found.failed += sent.failed
        cpu_ms = 1000 * usage.cpu_s / usage.seconds / max(sent.per_s, 1e-9)
        found.throughput.setdefault(callers, []).append(sent.per_s / floor.per_s)
        found.cpu_ms.setdefault(callers, []).append(cpu_ms)
        found.cpu.setdefault(callers, []).append(cpu_ms / floor.cpu_ms)


def _print(servers: list[Running], measured: dict[str, Measured], left_out: dict[str, str]) -> None:
    table = Table("server")
    for callers in _CALLERS:
        table.add_column(f"throughput / floor, {callers}", justify="right")
    for callers in _CALLERS:
        table.add_column(f"CPU-ms (/ floor), {callers}", justify="right")
    for title in ("PSS, MB", "start, s", "failed"):
        table.add_column(title, justify="right")
    for one in servers:
        found = measured[one.name]
        median = statistics.median
        table.add_row(
            f"{one.name} {_version(one.name)}",
            *(f"{median(found.throughput[callers]):.2f}" for callers in _CALLERS),
            *(
                f"{median(found.cpu_ms[callers]):.1f} ({median(found.cpu[callers]):.2f})"
                for callers in _CALLERS
            ),
            f"{one.watch.pss_mb():.0f}",
            f"{one.start_s:.1f}",
            str(found.failed),
        )
    console = Console(width=160)
    console.print(table)
    ours = measured["limelens"].throughput
    others = [found.throughput for name, found in measured.items() if name != "limelens"]
    for callers in _CALLERS if others else ():
        # Within each round, so that other load on the machine affects both.
        ratios = [
            mine / max(other[callers][round_] for other in others)
            for round_, mine in enumerate(ours[callers])
        ]
        console.print(
            f"limelens / the best peer, {callers} callers: {statistics.median(ratios):.2f} "
            "(required 1.0, wanted 1.3)"
        )
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}", markup=False)


@contextlib.contextmanager
def _limelens(models: Path, images: tuple[bytes, ...]) -> Iterator[Running]:
    requests = tuple(
        service_pb2.ClassifyRequest(images=[image_pb2.Image(encoded=one)]).SerializeToString()
        for one in images
    )
    with started(serve_command(models, "--device", "cpu")) as server:
        target = Target(server.address, _CLASSIFY, requests)
        yield Running("limelens", target, Watch(server.pid), server.start_s)


@contextlib.contextmanager
def _peer(name: str, peer: Peer, model: Path, images: tuple[bytes, ...]) -> Iterator[Running]:
    port = _free_ports()
    address = f"127.0.0.1:{port}"
    app = _APPS / f"{name}_app.py"
    python = _FOLDER / name / "bin" / "python"
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PEER_MODEL": str(model),
        "PYTHONPATH": str(_APPS),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    asks = _asking(peer, address, python, app, environment)
    target = Target(address, _INFER if peer.over_grpc else "", tuple(map(asks, images)))
    log = _FOLDER / f"{name}.log"
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, app, str(port)],
            env=environment,
            stdout=output,
            stderr=output,
            cwd=_FOLDER,
            start_new_session=True,
        )
    try:
        _wait(target, process, began + _START_S, log)
        yield Running(name, target, Watch(process.pid), time.monotonic() - began)
    finally:
        _stop(process)


def _asking(
    peer: Peer, address: str, python: Path, app: Path, environment: dict[str, str]
) -> Callable[[bytes], bytes]:
    """Makes the peer's request of an image; that of gRPC by the peer's own stubs."""

    def over_grpc(data: bytes) -> bytes:
        image = _FOLDER / "image.jpg"
        image.write_bytes(data)
        command = [str(python), str(app), "request", str(image)]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            raise LimelensError(done.stderr.decode(errors="replace") or "no request was made")
        return done.stdout

    def over_http(data: bytes) -> bytes:
        if not peer.as_form:
            return http_request(address, peer.path, data, "image/jpeg")
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=image; "
            'filename="image.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        body = head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return http_request(address, peer.path, body, kind)

    return over_grpc if peer.over_grpc else over_http


def _wait(target: Target, process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    reason = ""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            asyncio.run(ask_once(target))
        except (LimelensError, OSError, TimeoutError, EOFError) as error:
            reason = str(error)
            time.sleep(0.1)
        else:
            return
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else ""
    raise LimelensError(f"it never answered: {reason} {last}".replace("\n", " "))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the peer's process and all that it started, some of them in sessions of their own."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    for one in (*family, process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _install(name: str, peer: Peer) -> None:
    folder = _FOLDER / name
    done = folder / ".installed"
    if done.exists():
        return
    print(f"installing {name} …", file=sys.stderr)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    found = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *peer.packages, *_SHARED],
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
        check=False,
    )
    if found.returncode:
        raise LimelensError(f"cannot be installed: {found.stderr.strip()[-300:]}")
    done.touch()


def _version(name: str) -> str:
    if name == "limelens":
        return package_version("limelens")
    package = PEERS[name].packages[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    python = _FOLDER / name / "bin" / "python"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def _free_ports() -> int:
    """A port with two free ones after it."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            for more in (1, 2):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + more))
            return port


if __name__ == "__main__":
    main()
