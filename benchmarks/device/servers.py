"""Metrics of servers on the device: latency, throughput, large requests, mixed load, start."""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.device.bundles import NUM_SAMPLES, portrait
from benchmarks.device.card import gpu_memory_mb
from benchmarks.device.floors import batches_per_s
from benchmarks.device.isolated import isolated
from benchmarks.device.report import Row, median
from benchmarks.device.setting import Layout, Setting, models, serve_knows, serving
from benchmarks.untrained import repository_of, smooth_images
from limelens.serve import Client
from limelens.serve.bundle import read_metadata
from limelens.serve.errors import LimelensError
from limelens.serve.tools.load import (
    Kind,
    KindMetrics,
    ServerProcess,
    Watch,
    draw_image,
    generate,
)

_CALLERS: Final = {8: (1500.0, 2500.0), 32: (3000.0, 6000.0), 128: (4000.0, 10000.0)}
_SIDE: Final = 224
_IN_ONE: Final = 32
_SEED: Final = 7
_CONNECTIONS: Final = 8
_STARTS: Final = 3
_FLOOR_TIMEOUT_S: Final = 60.0
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"


def start(setting: Setting) -> None:
    """From starting the command to SERVING."""
    for layout in setting.layouts:
        seconds: list[float] = []
        for _ in range(_STARTS + 1):
            setting.check_time()
            shipped = repository_of(models()["shipped"])
            with serving(setting, shipped, *layout.options) as server:
                seconds.append(server.start_s)
        required, wanted = _bounds(setting, layout, 5.0, 2.5)
        setting.report.add(
            Row(
                f"start to SERVING, shipped{layout}",
                median(seconds[1:]),
                "s",
                required=required,
                wanted=wanted,
                bounded="measured",
                note=f"the first of all: {seconds[0]:.2g} s",
            )
        )


def classify(setting: Setting) -> None:
    """The shipped model under all kinds of load, in each layout."""
    model = models()["shipped"]
    rate = raw_rate(setting, model)
    for layout in setting.layouts:
        with setting.report.surviving(f"classify{layout}"):
            _classify_in(setting, layout, model, rate)


def _classify_in(setting: Setting, layout: Layout, model: Path, rate: float) -> None:
    before = gpu_memory_mb()
    with serving(setting, repository_of(model), *layout.options) as server:
        watch = Watch(server.pid)
        started_mb = gpu_memory_mb()
        with setting.report.surviving(f"one caller{layout}"):
            _latency(setting, server, layout, "shipped", model)
        with setting.report.surviving(f"throughput{layout}"):
            _throughput(setting, server, layout, rate)
        with setting.report.surviving(f"raw images{layout}"):
            _in_one_request(setting, server, layout, "shipped", model, rate)
        with setting.report.surviving(f"beside explanations{layout}"):
            _beside(setting, server, layout)
        with setting.report.surviving(f"mixed load{layout}"):
            _mixed(setting, server, layout, model, before, started_mb)
        setting.report.add(Row(f"memory (PSS) of the server{layout}", watch.pss_mb(), "MB"))


def networks(setting: Setting) -> None:
    """The networks at 224 px behind a server, with and without TF32."""
    for name, model in list(models().items())[1:]:
        with setting.report.surviving(f"server, {name}"):
            _network(setting, name, model)
    if setting.device == "cuda":
        if serve_knows("tf32"):
            with setting.report.surviving("server, --tf32"):
                _network(setting, name, model, "--tf32")
        else:
            setting.report.note("this limelens serve has no --tf32: it is left out")


def _network(setting: Setting, name: str, model: Path, *options: str) -> None:
    rate = raw_rate(setting, model)
    layout = setting.layouts[0]
    shown = " ".join((name, *options))
    with serving(setting, repository_of(model), *layout.options, *options) as server:
        _latency(setting, server, layout, shown, model)
        _in_one_request(setting, server, layout, shown, model, rate)
        _explain(setting, server, layout, shown, model)


def raw_rate(setting: Setting, model: Path) -> float:
    """Images a second by onnxruntime alone, 32 at a time."""
    setting.check_time()
    return isolated(_FLOOR_TIMEOUT_S, batches_per_s, model, setting.device, _IN_ONE, 1.0)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def _bounds(
    setting: Setting, layout: Layout, required: float, wanted: float
) -> tuple[float | None, float | None]:
    """Bounds apply on a GPU, to the first layout; the others are for comparison."""
    counts = setting.device == "cuda" and layout == setting.layouts[0]
    return (required, wanted) if counts else (None, None)


def _errors(found: KindMetrics) -> str:
    errors = ", ".join(f"{count} {code}" for code, count in found.errors.items())
    return f"errors: {errors}" if errors else ""


def _spread(found: KindMetrics) -> str:
    """Percentiles and errors, for a note."""
    latency = found.latency_ms
    shown = f"p50 {latency['p50']:.3g}, p99 {latency['p99']:.3g} ms" if latency else "no answer"
    return "; ".join(filter(None, (shown, _errors(found))))


def _latency(
    setting: Setting, server: ServerProcess, layout: Layout, name: str, model: Path
) -> None:
    rule = read_metadata(model).resize
    sent = [jpeg(image) for image in smooth_images(8, rule.height, rule.width)]
    found = generate(setting.plan(server, sent, callers=1)).kinds[Kind.CLASSIFY]
    if not found.latency_ms:
        raise LimelensError(f"no call was answered; {_errors(found)}")
    required, wanted = _bounds(setting, layout, 2.5, 1.5)
    setting.report.add(
        Row(
            f"Classify p50, one caller, JPEG of {rule.width} px, {name}{layout}",
            found.latency_ms["p50"],
            "ms",
            required=required,
            wanted=wanted,
            bounded="measured",
            note=_spread(found),
        )
    )


def _throughput(setting: Setting, server: ServerProcess, layout: Layout, rate: float) -> None:
    sent = [draw_image(_SIDE, _SIDE, seed) for seed in range(8)]
    for callers, bounds in _CALLERS.items():
        watch = Watch(server.pid)
        plan = setting.plan(server, sent, callers=callers)
        metrics = generate(plan, watch.begin, watch.end)
        found = metrics.kinds[Kind.CLASSIFY]
        required, wanted = _bounds(setting, layout, *bounds)
        setting.report.add(
            Row(
                f"Classify, {callers} callers, JPEG of {_SIDE} px, shipped{layout}",
                found.per_s,
                "/s",
                rate,
                found.per_s / rate,
                required=required,
                wanted=wanted,
                bounded="measured",
                more_is_better=True,
                note=f"{_spread(found)}; server {watch.usage.cpu_s / watch.usage.seconds:.1f}, "
                f"callers {metrics.generator_cpu:.1f} cores",
            )
        )


def _in_one_request(
    setting: Setting,
    server: ServerProcess,
    layout: Layout,
    name: str,
    model: Path,
    rate: float,
) -> None:
    """Raw images of the model's size, 32 in a request, by our own call and the stock one."""
    from limelens.inference import inference_service_pb2 as inference_pb2
    from limelens.v1 import classifier_service_pb2 as service_pb2
    from limelens.v1 import image_pb2

    metadata = read_metadata(model)
    height, width = metadata.resize.height, metadata.resize.width
    images = smooth_images(_IN_ONE, height, width)
    ours = service_pb2.ClassifyRequest(
        images=[
            image_pb2.Image(raw=image_pb2.RawImage(data=one.tobytes(), height=height, width=width))
            for one in images
        ]
    ).SerializeToString()
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=images.shape
    )
    stock = inference_pb2.ModelInferRequest(
        model_name=metadata.name, inputs=[tensor], raw_input_contents=[images.tobytes()]
    ).SerializeToString()
    asked = {"own call": (ours, None), "Open Inference": (stock, _INFER)}
    for way, (request, method) in asked.items():
        plan = setting.plan(server, (b"",), callers=8)
        plan = replace(plan, requests=(request,), method=method)
        found = generate(plan).kinds[Kind.CLASSIFY]
        per_s = _IN_ONE * found.per_s
        required, wanted = _bounds(setting, layout, 0.5, 0.8)
        setting.report.add(
            Row(
                f"{_IN_ONE} raw images a request, 8 callers, {way}, {name}{layout}",
                per_s,
                "/s",
                rate,
                per_s / rate,
                required=required,
                wanted=wanted,
                more_is_better=True,
                note=_spread(found),
            )
        )


def _beside(setting: Setting, server: ServerProcess, layout: Layout) -> None:
    """Latency of a few calls and cameras, alone and beside explanations without pause."""
    sent = [draw_image(_SIDE, _SIDE, seed) for seed in range(8)]
    load = {
        "rate": 200.0 if setting.device == "cuda" else 50.0,
        "streams": 4,
        "duration_s": 4 / 3 * setting.seconds,
    }
    idle, busy, explained = [], [], []
    rounds = 2 if layout == setting.layouts[0] else 1
    for _ in range(rounds):
        alone = generate(setting.plan(server, sent, **load)).kinds[Kind.CLASSIFY]
        plan = setting.plan(server, sent, **load, explainers=1, num_samples=NUM_SAMPLES)
        beside = generate(plan).kinds
        idle.append(alone.latency_ms["p99"])
        busy.append(beside[Kind.CLASSIFY].latency_ms["p99"])
        explained.append(beside[Kind.EXPLAIN])
    required, wanted = _bounds(setting, layout, 2.0, 1.5)
    ratios = [one / other for one, other in zip(busy, idle, strict=True)]
    setting.report.add(
        Row(
            f"Classify p99 beside explanations / alone, {load['rate']:.0f} a second and 4 cameras"
            f"{layout}",
            median(busy),
            "ms",
            median(idle),
            median(ratios),
            required=required,
            wanted=wanted,
            note=f"{sum(one.per_s for one in explained) / rounds:.1f} explanations a second, "
            f"{_spread(explained[-1])}",
        )
    )


def _explain(
    setting: Setting, server: ServerProcess, layout: Layout, name: str, model: Path
) -> None:
    rule = read_metadata(model).resize
    sent = [jpeg(portrait(rule.height, rule.width))]
    plan = setting.plan(server, sent, explainers=1, num_samples=NUM_SAMPLES, connections=1)
    found = generate(plan).kinds[Kind.EXPLAIN]
    if not found.latency_ms:
        raise LimelensError(f"no explanation was given; {_errors(found)}")
    setting.report.add(
        Row(
            f"Explain N={NUM_SAMPLES} by a server, p50, {name}{layout}",
            found.latency_ms["p50"],
            "ms",
            note=_spread(found),
        )
    )


def _mixed(
    setting: Setting,
    server: ServerProcess,
    layout: Layout,
    model: Path,
    before_mb: float | None,
    started_mb: float | None,
) -> None:
    """All loads at once: memory must not grow, and a seed must always give the same explanation."""
    rule = read_metadata(model).resize
    image = jpeg(portrait(rule.height, rule.width))
    _explain(setting, server, layout, "shipped", model)
    alone = [weights_of(server.address, image) for _ in range(_CONNECTIONS)]
    expected = isolated(_FLOOR_TIMEOUT_S, weights_on_cpu, model, image)
    loaded: list[NDArray[np.float64]] = []

    def ask() -> None:
        with suppress(LimelensError):  # a busy server may refuse; that is counted below
            while len(loaded) < _CONNECTIONS:
                loaded.append(weights_of(server.address, image))

    memory: list[float | None] = []
    sent = [draw_image(_SIDE, _SIDE, seed) for seed in range(8)]
    for number in range(2):
        plan = setting.plan(server, sent, callers=16, streams=4, explainers=1)
        asking = threading.Thread(target=ask, daemon=True)
        generate(plan, on_begin=asking.start if number == 0 else lambda: None)
        if number == 0:
            asking.join(60)
        memory.append(gpu_memory_mb())
    answers = [*alone, *loaded]
    setting.report.add(
        Row(
            f"weights for one seed over {len(alone)} connections, {len(loaded)} more beside load: "
            f"largest difference{layout}",
            float(max(np.abs(one - alone[0]).max() for one in answers)),
            required=0.0,
            bounded="measured",
        )
    )
    setting.report.add(
        Row(
            f"the same from this server and from the CPU in this process{layout}",
            float(np.abs(alone[0] - expected).max()),
            required=1e-4,
            bounded="measured",
        )
    )
    if started_mb is not None and before_mb is not None:
        shown = ", ".join("?" if one is None else f"{one:,.0f}" for one in memory)
        setting.report.add(
            Row(
                f"GPU memory once started, shipped{layout}",
                started_mb - before_mb,
                "MiB",
                note=f"in use on the card: {before_mb:,.0f} before, {started_mb:,.0f} started, "
                f"{shown} after mixed load, once and again",
            )
        )


def weights_of(address: str, image: bytes) -> NDArray[np.float64]:
    """By segment, over a connection of its own."""
    with Client(address) as client:
        return _by_segment(client.explain(image, num_samples=NUM_SAMPLES, seed=_SEED))


def weights_on_cpu(model: Path, image: bytes) -> NDArray[np.float64]:
    """The same by a bundle without a server."""
    from limelens.serve.client.in_process import local_client

    client = local_client(model, "cpu")
    return _by_segment(client.explain(image, num_samples=NUM_SAMPLES, seed=_SEED))


def _by_segment(found: Any) -> NDArray[np.float64]:
    pairs = sorted((one.segment, one.weight) for one in found.explanations[0].weights)
    return np.array([weight for _, weight in pairs])
