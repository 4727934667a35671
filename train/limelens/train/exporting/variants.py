"""A bundle in another precision: fitted again, and measured beside the one in fp32.

It knows how a variant gets its temperature, thresholds and golden vector, and how two bundles are
timed. It does not know how a graph is converted (`precision`) or when a variant is refused
(`exporting`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limelens.serve.bundle import Bundle, Golden, Metadata, Task, load_bundle
from limelens.serve.errors import ProviderError
from limelens.serve.image import ResizeRule, read_fitted
from limelens.train.data.examples import Example, targets_of
from limelens.train.evaluation.metrics import (
    fit_temperature,
    fit_temperature_multilabel,
    fit_thresholds,
)
from limelens.train.evaluation.prediction import probabilities_of
from limelens.train.exporting.precision import (
    CALIBRATION_SIZE,
    TOLERANCES,
    PrecisionError,
    convert,
    logits_of,
    with_temperature,
)

BATCH_SIZES: Final = (1, 32)
"""What speed is measured with."""
_BATCH: Final = 32
_SLOWER: Final = 1.05
"""Below this, a measured ratio may be chance."""
_MOVED: Final = 0.1
_MIN_ROUNDS, _MAX_ROUNDS, _ENOUGH_S = 5, 100, 3.0


@dataclass(frozen=True)
class Speed:
    """How long a call takes in two bundles, measured in turns on this machine.

    Args:
        provider: The execution provider of both.
        batch_size: Images a call.
        fp32_ms: Median of a call of the fp32 bundle.
        ms: Median of a call of the variant.
    """

    provider: str
    batch_size: int
    fp32_ms: float
    ms: float

    @property
    def ratio(self) -> float:
        """The variant's time over fp32's: above 1 it is slower."""
        return self.ms / self.fp32_ms

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "provider": self.provider,
            "batch_size": self.batch_size,
            "fp32_ms": self.fp32_ms,
            "ms": self.ms,
            "ratio": self.ratio,
        }


@dataclass(frozen=True)
class Comparison:
    """A variant beside the bundle in fp32, on the validation images and on this machine.

    Args:
        precision: Of the variant.
        measure: What accuracy is: `accuracy` or, for multilabel, `mean_average_precision`.
        fp32_accuracy: 0 to 1.
        accuracy: Of the variant.
        fp32_size_bytes: Of the file.
        size_bytes: Of the variant's.
        difference: Largest difference of a probability.
        speeds: As measured.
    """

    precision: str
    measure: str
    fp32_accuracy: float
    accuracy: float
    fp32_size_bytes: int
    size_bytes: int
    difference: float
    speeds: Sequence[Speed]

    @property
    def remarks(self) -> list[str]:
        """What speaks against the variant, in sentences."""
        remarks = [
            f"{self.precision} is slower than fp32 here: {speed.ratio:.2f} times as long on "
            f"{speed.provider} with {speed.batch_size} image{'s' * (speed.batch_size > 1)} a call"
            for speed in self.speeds
            if speed.ratio >= _SLOWER
        ]
        if self.difference >= _MOVED:
            remarks.append(
                f"single probabilities differ from fp32's by up to {self.difference:.2f}: "
                "set thresholds anew"
            )
        return remarks

    def to_json(self) -> dict[str, Any]:
        """As the keys that `export --json` adds for a variant."""
        return {
            "fp32": {
                "size_bytes": self.fp32_size_bytes,
                self.measure: self.fp32_accuracy,
                "max_abs_difference": self.difference,
            },
            "speed": [speed.to_json() for speed in self.speeds],
            "remarks": self.remarks,
        }


def measured(metrics: Mapping[str, Any]) -> tuple[str, float]:
    """What a variant must not lose: the figure's key and its value.

    Raises:
        PrecisionError: The validation images do not give it.
    """
    key = "mean_average_precision" if metrics["task"] == Task.MULTILABEL else "accuracy"
    value = metrics[key]
    if value is None:
        raise PrecisionError(
            "no label is true of some validation images and not of others, so that precisions "
            "cannot be compared; export fp32"
        )
    return key, float(value)


def make_variant(
    model: onnx.ModelProto,
    metadata: Metadata,
    precision: str,
    *,
    train: Sequence[Example],
    val: Sequence[Example],
    seed: int,
) -> tuple[onnx.ModelProto, Metadata]:
    """Converts a graph and fits anew what rounding has moved.

    Args:
        model: The graph in fp32, without metadata.
        metadata: Of the fp32 bundle.
        precision: `fp16` or `int8`.
        train: Of which a sample gives the ranges of activations.
        val: The temperature and, for multilabel, the thresholds are fitted on them.
        seed: Of the sample.

    Returns:
        The graph, without metadata, and its metadata.

    Raises:
        PrecisionError: The graph cannot be converted, or its golden vector hangs on rounding.
    """
    converted = convert(model, precision, _sample(train, metadata.resize, seed))
    run = _logits_session(converted, len(metadata.labels))
    logits = np.concatenate([run(images) for images in _batches(val, metadata.resize)])
    if not np.isfinite(logits).all():
        raise PrecisionError(f"the network overflows in {precision}; export another precision")
    targets = targets_of(val, len(metadata.labels), metadata.task)
    is_multilabel = metadata.task is Task.MULTILABEL
    fit_one = fit_temperature_multilabel if is_multilabel else fit_temperature
    temperature = fit_one(logits, targets)
    thresholds: tuple[float, ...] = ()
    if is_multilabel:
        thresholds = fit_thresholds(probabilities_of(logits, temperature, metadata.task), targets)
    # What the served graph divides by.
    temperature = float(np.float32(temperature))
    image = metadata.golden.image
    golden, rounded = (
        probabilities_of(
            _logits_session(converted, len(metadata.labels), optimised)(image[np.newaxis]),
            temperature,
            metadata.task,
        )[0].astype(np.float32)
        for optimised in (True, False)
    )
    # Without its optimisations onnxruntime computes between 8-bit steps in float32, as on CUDA.
    moved = float(np.abs(golden - rounded).max())
    tolerances = TOLERANCES[precision]
    if moved > min(tolerances.values()):
        raise PrecisionError(
            f"the golden vector moves by {moved:.2g} in {precision} when sums are rounded "
            "otherwise, so that the bundle would not load everywhere; export another precision"
        )
    return with_temperature(converted, temperature), replace(
        metadata,
        precision=precision,
        golden=Golden(image, golden, tolerances),
        label_thresholds=thresholds,
        card={**metadata.card, "temperature": temperature},
    )


def compare_speed(fp32: Path, variant: Path) -> list[Speed]:
    """Times two bundles in turns on the CPU and, where there is one, on the GPU.

    Args:
        fp32: A bundle's file.
        variant: Of the same input.

    Returns:
        For each provider one for each of `BATCH_SIZES`.

    Raises:
        BundleError: The golden vector is not met on one of the providers.
    """
    pairs = [(load_bundle(fp32, "cpu"), load_bundle(variant, "cpu"))]
    with contextlib.suppress(ProviderError):
        pairs.append((load_bundle(fp32, "cuda"), load_bundle(variant, "cuda")))
    return [_race(*pair, batch_size) for pair in pairs for batch_size in BATCH_SIZES]


def _race(fp32: Bundle, variant: Bundle, batch_size: int) -> Speed:
    images = np.repeat(fp32.metadata.golden.image[np.newaxis], batch_size, axis=0)
    seconds: tuple[list[float], list[float]] = ([], [])
    bundles = (fp32, variant)
    for bundle in bundles:
        bundle.predict(images)
    began = time.perf_counter()
    for number in range(_MAX_ROUNDS):
        if number >= _MIN_ROUNDS and time.perf_counter() - began > _ENOUGH_S:
            break
        # Whoever goes second finds warmer or colder caches: they take turns at that too.
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            bundles[index].predict(images)
            seconds[index].append(time.perf_counter() - start)
    fp32_ms, ms = (float(np.median(times)) * 1e3 for times in seconds)
    return Speed(fp32.provider, batch_size, fp32_ms, ms)


def _logits_session(model: onnx.ModelProto, num_labels: int, optimised: bool = True) -> Any:
    """A function from `(N, H, W, 3)` uint8 to `(N, C)` logits, as the graph computes them."""
    import onnxruntime

    own = onnx.ModelProto()
    own.CopyFrom(model)
    name = logits_of(own.graph)
    own.graph.output.append(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", num_labels])
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        own.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([name], {"images": images})[0]
        return logits

    return run


def _sample(examples: Sequence[Example], resize: ResizeRule, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    count = min(CALIBRATION_SIZE, len(examples))
    chosen = [examples[i] for i in np.sort(rng.choice(len(examples), count, replace=False))]
    return np.concatenate(list(_batches(chosen, resize)))


def _batches(examples: Sequence[Example], resize: ResizeRule) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(examples), _BATCH):
        paths = [example.path for example in examples[start : start + _BATCH]]
        yield np.stack([read_fitted(path.read_bytes(), resize) for path in paths])
