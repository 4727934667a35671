"""Metrics of bundles without a server: random batch sizes, explanations, precisions."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.floors import Device, median_ms, probabilities, resident, resident_ms
from benchmarks.device.isolated import isolated
from benchmarks.device.report import Row, median
from benchmarks.device.setting import Setting, models
from benchmarks.untrained import half_of, smooth_images
from limelens.serve.errors import LimelensError

NUM_SAMPLES: Final = 1000
_CHUNK: Final = 256
_LARGEST: Final = 64
_RUNS: Final = 500
_ROUNDS: Final = 3
_SEED: Final = 7
_TIMEOUT_S: Final = 150.0
_EXPLAIN_MS: Final = {
    "shipped": (60.0, 35.0),
    "mobilenet_v3_small": (110.0, 70.0),
    "resnet18": (180.0, 140.0),
}
_PREDICT: Final = {
    "shipped": (2.0, 1.3),
    "mobilenet_v3_small": (1.5, 1.2),
    "resnet18": (1.3, 1.1),
}


def sizes(setting: Setting) -> None:
    """How much a change of the batch size slows a run."""
    for name, model in models().items():
        with setting.report.surviving(f"sizes, {name}"):
            _sizes_of(setting, name, model)


def _sizes_of(setting: Setting, name: str, model: Path) -> None:
    setting.check_time()
    found = isolated(_TIMEOUT_S, random_sizes, model, setting.device, min(20.0, setting.left_s))
    setting.report.add(
        Row(
            f"slowest of {found.runs} runs of 1 to {_LARGEST} / one of {_LARGEST}, {name}",
            found.slowest_ms,
            "ms",
            found.largest_ms,
            found.slowest_ms / found.largest_ms,
            required=2.0,
            wanted=1.2,
            note=f"worst of {found.rounds} rounds: {found.worst_ms:.3g} ms; first run of all: "
            f"{found.first_ms:.3g} ms; {found.provider}",
        )
    )


@dataclass(frozen=True)
class Sizes:
    """Runs of random sizes.

    Args:
        provider: The execution provider.
        first_ms: The very first run after loading.
        largest_ms: A run of the largest size.
        slowest_ms: The slowest run of a round, the median over rounds.
        worst_ms: The slowest of all.
        runs: Runs in a round.
        rounds: Rounds that fitted into the time.
    """

    provider: str
    first_ms: float
    largest_ms: float
    slowest_ms: float
    worst_ms: float
    runs: int
    rounds: int


def random_sizes(model: Path, device: Device, seconds: float) -> Sizes:
    """Runs a bundle on batches of random sizes, as requests would."""
    from limelens.serve import load_bundle

    bundle = load_bundle(model.parent, device)
    images = smooth_images(_LARGEST, *bundle.input_size)
    rng = np.random.default_rng(0)

    def run(count: int) -> float:
        began = time.perf_counter()
        bundle.predict(images[:count])
        return 1000 * (time.perf_counter() - began)

    first_ms = run(_LARGEST)
    largest_ms = median_ms(lambda: run(_LARGEST), 0.5)
    end = time.perf_counter() + seconds
    slowest: list[float] = []
    runs = _RUNS
    while len(slowest) < _ROUNDS and (not slowest or time.perf_counter() < end):
        times: list[float] = []
        for count in rng.integers(1, _LARGEST + 1, _RUNS):
            times.append(run(int(count)))
            if time.perf_counter() > end and len(times) >= 20:
                break
        slowest.append(max(times))
        runs = min(runs, len(times))
    return Sizes(
        bundle.provider,
        first_ms,
        largest_ms,
        median(slowest),
        max(slowest),
        runs,
        len(slowest),
    )


def explanations(setting: Setting) -> None:
    """An explanation's time relative to the model's alone for as many images."""
    for name, model in models().items():
        with setting.report.surviving(f"explain, {name}"):
            _explanations_of(setting, name, model)


def _explanations_of(setting: Setting, name: str, model: Path) -> None:
    setting.check_time()
    found = isolated(_TIMEOUT_S, explained, model, setting.device, 2 * setting.seconds)
    required, wanted = _EXPLAIN_MS[name] if setting.device == "cuda" else (None, None)
    setting.report.add(
        Row(
            f"Explain N={NUM_SAMPLES}, slic, {name}",
            found.total_ms,
            "ms",
            found.floor_ms,
            found.total_ms / found.floor_ms,
            required=required,
            wanted=wanted,
            bounded="measured",
            note=f"K={found.num_segments}, segment {found.segment_ms:.1f}, "
            f"fit {found.fit_ms:.1f} ms, {found.rounds} rounds; {found.provider}",
        )
    )
    required, wanted = _PREDICT[name] if setting.device == "cuda" else (None, None)
    setting.report.add(
        Row(
            f"its predict stage / {found.floor_runs} resident runs of {_CHUNK}, {name}",
            found.predict_ms,
            "ms",
            found.floor_ms,
            found.predict_ms / found.floor_ms,
            required=required,
            wanted=wanted,
            note="floor by CUDA graph" if found.by_graph else "floor without CUDA graph",
        )
    )
    if setting.device == "cuda":
        setting.report.add(
            Row(
                f"weights for one seed, CPU and CUDA: largest difference, {name}",
                found.difference,
                required=1e-4,
                bounded="measured",
                note=f"largest weight {found.largest_weight:.3g}; CPU {found.cpu_ms:.0f} ms",
            )
        )
    setting.report.add(
        Row(
            f"the same again on {setting.device}: largest difference, {name}",
            found.repeated,
            required=0.0,
            bounded="measured",
        )
    )


@dataclass(frozen=True)
class Explained:
    """Explanations alternating with their floor; medians.

    Args:
        provider: The execution provider.
        total_ms: The whole call.
        segment_ms: Segmentation.
        predict_ms: Perturbing images and running the model.
        fit_ms: Fitting the surrogate.
        floor_ms: onnxruntime alone on as many images, or a few more, already on the device.
        floor_runs: Runs of 256 images.
        by_graph: Whether the floor replays a CUDA graph.
        num_segments: K.
        rounds: Number of rounds.
        difference: Largest difference of a weight from the CPU's for the same seed.
        largest_weight: Largest weight on the CPU.
        cpu_ms: Time on the CPU.
        repeated: Largest difference of a weight between explanations of one seed on the device.
    """

    provider: str
    total_ms: float
    segment_ms: float
    predict_ms: float
    fit_ms: float
    floor_ms: float
    floor_runs: int
    by_graph: bool
    num_segments: int
    rounds: int
    difference: float
    largest_weight: float
    cpu_ms: float
    repeated: float


def portrait(height: int, width: int) -> NDArray[np.uint8]:
    """A face, `(height, width, 3)`."""
    from skimage.data import astronaut

    from limelens.serve import Region
    from limelens.serve.image import ResizeMode, ResizeRule, fit

    rule = ResizeRule(height, width, ResizeMode.STRETCH)
    return fit(astronaut(), rule, Region(0.25, 0.03, 0.63, 0.41)).pixels  # type: ignore[no-untyped-call]


def explained(model: Path, device: Device, seconds: float) -> Explained:
    """Explains one image repeatedly, alternating with the floor."""
    from limelens.explain import explain
    from limelens.serve import load_bundle

    bundle = load_bundle(model.parent, device)
    image = portrait(*bundle.input_size)

    def ask(asked: Any = bundle) -> Any:
        return explain(
            image, asked.predict, num_samples=NUM_SAMPLES, segmentation="slic", seed=_SEED
        )

    run, by_graph = resident(model, device, _CHUNK)
    floor_runs = -(-NUM_SAMPLES // _CHUNK)
    weights = [_weights(ask()) for _ in range(2)]
    totals: list[float] = []
    floors: list[float] = []
    timings: list[Any] = []
    end = time.perf_counter() + seconds
    while len(totals) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        found = ask()
        between = time.perf_counter()
        for _ in range(floor_runs):
            run()
        totals.append(1000 * (between - began))
        floors.append(1000 * (time.perf_counter() - between))
        timings.append(found.timings_ms)
        weights.append(_weights(found))
    on_cpu = load_bundle(model.parent, "cpu")
    began = time.perf_counter()
    expected = _weights(ask(on_cpu))
    cpu_ms = 1000 * (time.perf_counter() - began)
    return Explained(
        provider=bundle.provider,
        total_ms=median(totals),
        segment_ms=median([one.segment for one in timings]),
        predict_ms=median([one.predict for one in timings]),
        fit_ms=median([one.fit for one in timings]),
        floor_ms=median(floors),
        floor_runs=floor_runs,
        by_graph=by_graph,
        num_segments=found.num_segments,
        rounds=len(totals),
        difference=float(np.abs(weights[0] - expected).max()),
        largest_weight=float(np.abs(expected).max()),
        cpu_ms=cpu_ms,
        repeated=float(max(np.abs(one - weights[0]).max() for one in weights[1:])),
    )


def _weights(found: Any) -> NDArray[np.float64]:
    """By segment."""
    pairs = sorted((one.segment, one.weight) for one in found.explanations[0].weights)
    return np.array([weight for _, weight in pairs])


def precisions(setting: Setting) -> None:
    """The speed of fewer bits, and how much they change a probability."""
    for name, model in models().items():
        with setting.report.surviving(f"precision, {name}"):
            _precisions_of(setting, name, model)


def _precisions_of(setting: Setting, name: str, model: Path) -> None:
    report = setting.report
    setting.check_time()
    try:
        half: Path | None = half_of(model)
    except Exception as error:  # torch or onnxruntime's tools may be missing
        report.fail(f"precision: fp16 of {name}", f"{type(error).__name__}: {error}")
        half = None
    found = isolated(_TIMEOUT_S, in_precisions, model, half, setting.device)
    for precision, ms in found.ms.items():
        if precision != "fp32":
            report.add(
                Row(
                    f"{_LARGEST} resident images in {precision} / fp32, {name}",
                    ms,
                    "ms",
                    found.ms["fp32"],
                    ms / found.ms["fp32"],
                    note=f"largest change of a probability {found.change[precision]:.1e}",
                )
            )
    for remark in found.remarks:
        report.note(f"  {name}: {remark}")


@dataclass(frozen=True)
class Precisions:
    """One model in several precisions, by their names.

    Args:
        ms: Time of a run of 64 images.
        change: Largest difference of a probability from fp32's on the device.
        remarks: Measurements that failed.
    """

    ms: dict[str, float]
    change: dict[str, float]
    remarks: list[str]


def in_precisions(model: Path, half: Path | None, device: Device) -> Precisions:
    """Runs a model in fp32, TF32 and fp16, by onnxruntime alone and as a bundle."""
    from limelens.serve import load_bundle

    remarks: list[str] = []
    bundle = load_bundle(model.parent, device)
    images = np.concatenate(
        [smooth_images(_LARGEST - 1, *bundle.input_size, seed=3), [portrait(*bundle.input_size)]]
    )
    exact = probabilities(model, device, images)
    ms = {"fp32": resident_ms(model, device, _LARGEST, 0.5)}
    change: dict[str, float] = {}

    def changed(found: NDArray[np.float32]) -> float:
        return float(np.abs(found - exact).max())

    def of_bundle(precision: str, path: Path, **settings: Any) -> None:
        try:
            other = load_bundle(path.parent, device, **settings)
        except LimelensError as error:
            remarks.append(f"{precision} cannot be served: {error}")
            return
        change[precision] = changed(other.predict(images))
        ms[precision] = median_ms(lambda: other.predict(images), 0.5)

    change["limelens' fp32"] = changed(bundle.predict(images))
    ms["limelens' fp32"] = median_ms(lambda: bundle.predict(images), 0.5)
    if device == "cuda":
        ms["TF32"] = resident_ms(model, device, _LARGEST, 0.5, tf32=True)
        change["TF32"] = changed(probabilities(model, device, images, tf32=True))
        if "tf32" in inspect.signature(load_bundle).parameters:
            of_bundle("limelens' TF32", model, tf32=True)
        else:
            remarks.append("load_bundle has no tf32 yet: TF32 is measured by onnxruntime alone")
    if half is not None:
        ms["fp16"] = resident_ms(half, device, _LARGEST, 0.5)
        change["fp16"] = changed(probabilities(half, device, images))
        of_bundle("limelens' fp16", half)
    return Precisions(ms, change, remarks)
