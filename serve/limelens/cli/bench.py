"""`limelens bench`: latency and throughput of a server under load, and what they cost."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from limelens.cli.options import option, settings_of
from limelens.cli.options.connection_options import NOTHING, Credentials, securely
from limelens.cli.options.face_options import NO_FACES, Faces, with_people
from limelens.cli.serving import default_models
from limelens.cli.terminal.printing import AsJson, out, print_json
from limelens.serve.errors import InvalidRequestError, LimelensError
from limelens.serve.folders import find_images
from limelens.serve.image import FORMATS

if TYPE_CHECKING:
    from limelens.serve.tools.load import FloorMetrics, LoadMetrics, LoadPlan, Usage

_LOAD, _IMAGES, _FLOOR = "Load", "Images", "Compared with"


def _option(*names: str, **given: Any) -> Any:
    """An option that describes the load."""
    return typer.Option(*names, rich_help_panel=_LOAD, **given)


@securely
@with_people
def bench(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Files or folders to send, in turns.",
            show_default="a synthetic one",
        ),
    ] = None,
    server: Annotated[
        str | None,
        option("The server to call.", metavar="HOST:PORT", show_default="starts one on loopback"),
    ] = None,
    models: Annotated[
        Path | None,
        option("Model repository of the started server.", show_default="as limelens serve"),
    ] = None,
    model: Annotated[
        str, option("The model to call.", metavar="NAME", show_default="the only one")
    ] = "",
    size: Annotated[
        str, option("Size of the synthetic image.", metavar="WIDTHxHEIGHT", rich_help_panel=_IMAGES)
    ] = "224x224",
    callers: Annotated[
        int, _option(min=0, help="Callers of Classify, one call at a time each.")
    ] = 8,
    rate: Annotated[
        float | None,
        _option(
            min=0.001,
            help="Calls of Classify a second at random intervals, in place of --callers. "
            "Latencies count from when a call was due.",
        ),
    ] = None,
    streams: Annotated[int, _option(min=0, help="Cameras.")] = 0,
    fps: Annotated[float, _option(min=0.01, help="Frames a second of each camera.")] = 5.0,
    explainers: Annotated[
        int, _option(min=0, help="Callers of Explain, one call at a time each.")
    ] = 0,
    num_samples: Annotated[
        int, _option(min=0, help="Samples of each explanation.", show_default="the server's")
    ] = 0,
    duration_s: Annotated[float, _option("--duration", min=0.1, help="Seconds to measure.")] = 10.0,
    warmup_s: Annotated[
        float, _option("--warmup", min=0.0, help="Seconds of load before that.")
    ] = 1.0,
    deadline_ms: Annotated[int | None, _option(min=1, help="Deadline of each Classify.")] = None,
    processes: Annotated[int, _option(min=1, help="Processes that send.")] = 1,
    connections: Annotated[
        int | None,
        _option(
            min=1,
            help="Connections that the callers share. A server of several processes gives each "
            "connection to one of them.",
            show_default="one for up to 16 callers of each process",
        ),
    ] = None,
    floor: Annotated[
        bool,
        option(
            "Also measure decoding and onnxruntime alone, before and after.",
            "--floor/--no-floor",
            rich_help_panel=_FLOOR,
        ),
    ] = True,
    floor_model: Annotated[
        Path | None,
        option(
            "The model.onnx for --floor.",
            metavar="FILE",
            show_default="the started server's; with --server none",
            rich_help_panel=_FLOOR,
        ),
    ] = None,
    faces: Faces = NO_FACES,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Puts load on a server; prints latencies, errors, CPU time and memory.

    Callers run in processes of their own. CPU time and memory are those of a server on this
    machine. Throughput is also given relative to the floor: Pillow and onnxruntime alone in two
    threads. With --faces, name images with faces: their number decides the cost.

    Example: limelens bench --callers 32 --duration 20

    Example: limelens bench --server 127.0.0.1:8500 --rate 200 --streams 4 --explainers 1
    """
    given = dict(locals())
    if server is None and (credentials.tls is not None or callable(credentials.token)):
        raise typer.BadParameter(
            "TLS or a token file, which the server that is started here does not use; name a "
            "server too (--server HOST:PORT)"
        )
    from limelens.serve.tools.load import LoadPlan, draw_image, local_server, started
    from limelens.serve.tools.load.process import load_psutil

    sent = _read_images(images) if images else (draw_image(*_size(size)),)
    with ExitStack() as stack:
        start_s, pid = None, None
        if server is None:
            load_psutil()  # fails before the server starts
            folder = models or default_models()
            floor_model = floor_model or _only_model(folder, model)
            process = stack.enter_context(started(serve_command(folder)))
            server, pid, start_s = process.address, process.pid, process.start_s
        else:
            pid = local_server(server)
        plan = LoadPlan(
            **settings_of(LoadPlan, given)
            | {
                "server": server,
                "images": sent,
                "tls": credentials.tls,
                "token": credentials.token() if callable(credentials.token) else credentials.token,
                "insecure_token": credentials.insecure_token,
                "callers": 0 if rate is not None else callers,
                "faces": faces.wanted or None,
                "deadline_s": None if deadline_ms is None else deadline_ms / 1000,
            }
        )
        metrics, usage, raw = measure(plan, pid, floor_model if floor else None)
    document = _document(plan, metrics, usage, raw, start_s)
    if as_json:
        print_json(document)
    else:
        _print(document)


def serve_command(models: Path, *options: str) -> list[str]:
    """The command that starts a server of this installation on a free port of this machine."""
    return [
        *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(models)),
        *("--listen", "127.0.0.1:0", "--log-level", "error", *options),
    ]


def measure(
    plan: LoadPlan, pid: int | None, floor_model: Path | None
) -> tuple[LoadMetrics, Usage | None, FloorMetrics | None]:
    """Measures a server under load, and the floor of a model before and after.

    The server's process is watched if it is on this machine; without a model there is no floor.
    """
    from limelens.serve.tools.load import FloorMetrics, Watch, generate, measure_floor

    part_s = min(5.0, max(0.5, plan.duration_s / 4))
    before = measure_floor(floor_model, plan.images, part_s) if floor_model else None
    watch = None if pid is None else Watch(pid)
    metrics = generate(plan, watch.begin, watch.end) if watch else generate(plan)
    floor = None
    if before is not None and floor_model is not None:
        after = measure_floor(floor_model, plan.images, part_s)
        floor = FloorMetrics((before.per_s + after.per_s) / 2, (before.cpu_ms + after.cpu_ms) / 2)
    return metrics, watch.usage if watch else None, floor


def _document(
    plan: LoadPlan,
    metrics: LoadMetrics,
    usage: Usage | None,
    raw: FloorMetrics | None,
    start_s: float | None,
) -> dict[str, Any]:
    kinds = {kind.value: asdict(one) for kind, one in metrics.kinds.items()}
    # With explanations the CPU time is no longer that of the images alone.
    images_per_s = sum(one["per_s"] for name, one in kinds.items() if name != "explain")
    cpu_ms = None
    if usage and images_per_s and not plan.explainers:
        cpu_ms = 1000 * usage.cpu_s / usage.seconds / images_per_s
    classify = kinds.get("classify")
    return {
        "server": plan.server,
        "loop": "open" if plan.is_open else "closed",
        "callers": plan.callers,
        "rate": plan.rate,
        "streams": plan.streams,
        "explainers": plan.explainers,
        "duration_s": plan.duration_s,
        "faces": None if plan.faces is None else asdict(plan.faces),
        **kinds,
        "process": usage
        and {
            "cores": usage.cpu_s / usage.seconds,
            "cpu_ms_per_picture": cpu_ms,
            "pss_mb": usage.pss_mb,
            "start_s": start_s,
        },
        "floor": raw and {"per_s": raw.per_s, "cpu_ms_per_picture": raw.cpu_ms},
        "ratio": {
            "throughput": classify["per_s"] / raw.per_s if classify and raw else None,
            "cpu": cpu_ms / raw.cpu_ms if cpu_ms and raw else None,
        },
        "sender": {
            "processes": plan.processes,
            "cores": metrics.generator_cpu,
            "late_p99_ms": metrics.late_p99_ms if plan.is_open else None,
        },
    }


def _print(document: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "answered", "a second", "p50 ms", "p90", "p99", "p99.9", "max", "errors"):
        table.add_column(title, justify="left" if title in ("", "errors") else "right")
    for name in ("classify", "stream", "explain"):
        found = document.get(name)
        if found is None:
            continue
        latency = found["latency_ms"]
        numbers = [f"{latency[key]:.1f}" if latency else "" for key in _COLUMNS]
        errors = ", ".join(f"{count} {code}" for code, count in found["errors"].items())
        table.add_row(name, str(found["answered"]), f"{found['per_s']:.1f}", *numbers, errors)
    out.print(table)
    process, floor, ratio = document["process"], document["floor"], document["ratio"]
    if process:
        cpu = process["cpu_ms_per_picture"]
        each = f", {cpu:.2f} CPU-ms an image" if cpu else ""
        out.print(f"server: {process['cores']:.2f} cores{each}, {process['pss_mb']:.0f} MB (PSS)")
    if floor:
        line = f"floor: {floor['per_s']:.0f} a second, {floor['cpu_ms_per_picture']:.2f} CPU-ms"
        if ratio["throughput"]:
            line += f"; throughput {ratio['throughput']:.2f} of it"
        if ratio["cpu"]:
            line += f", CPU {ratio['cpu']:.2f} times"
        out.print(line)
    sender = document["sender"]
    line = f"callers: {sender['cores']:.2f} cores"
    if sender["late_p99_ms"] is not None:
        line += f", at most {sender['late_p99_ms']:.1f} ms late (p99)"
    out.print(line)


_COLUMNS = ("p50", "p90", "p99", "p99_9", "max")


def _read_images(paths: list[Path]) -> tuple[bytes, ...]:
    """The bytes of files, and of the image files in folders; at most 256."""
    files = [file for path in paths for file in find_images(path)]
    if not files:
        raise InvalidRequestError(
            "images", f"none found; expected files, or folders of {', '.join(FORMATS)}"
        )
    return tuple(file.read_bytes() for file in files[:256])


def _size(text: str) -> tuple[int, int]:
    """Height and width."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"--size {text!r}; expected WIDTHxHEIGHT, such as 1280x720")
    return int(height), int(width)


def _only_model(folder: Path, name: str) -> Path:
    """The file of a model's newest version in a repository."""
    if not folder.is_dir():
        raise LimelensError(f"{folder}: no such folder; expected a model repository")
    found = list(folder.glob("*/*/model.onnx"))
    names = sorted({one.parents[1].name for one in found})
    if not names:
        raise LimelensError(f"{folder}: no models in it; expected <name>/<version>/model.onnx")
    if name and name not in names:
        raise LimelensError(f"{folder} has no model {name!r}; it has {', '.join(names)}")
    if not name and len(names) > 1:
        raise LimelensError(f"{folder} has {', '.join(names)}; name one with --model")
    found = [one for one in found if one.parents[1].name == (name or names[0])]
    return max(found, key=lambda one: int(one.parent.name) if one.parent.name.isdecimal() else 0)
