"""A bundle in another precision: calibrated again, and compared with the one in fp32.

It knows how a variant gets its temperature, thresholds and golden vector, and how two bundles are
timed. It does not know how a graph is converted (`precision`) or when a variant is refused
(`export`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limelens.serve.bundle import Bundle, Golden, Metadata, Task, load_bundle
from limelens.serve.errors import ProviderError
from limelens.serve.image import ResizeRule
from limelens.serve.wording import counted
from limelens.train.data.examples import Example, targets_of
from limelens.train.evaluation.metrics import fit_temperature, fit_thresholds, probabilities_of
from limelens.train.evaluation.model import batches
from limelens.train.exporting.precision import (
    CALIBRATION_SIZE,
    TOLERANCES,
    PrecisionError,
    convert,
    logits_of,
    with_temperature,
)

BATCH_SIZES: Final = (1, 32)
"""Batch sizes at which speed is measured."""
_SLOWER: Final = 1.05
"""Lower ratios may be due to chance."""
_LARGE_DIFFERENCE: Final = 0.1
_MIN_ROUNDS, _MAX_ROUNDS, _MAX_S = 5, 100, 3.0


@dataclass(frozen=True)
class Speed:
    """The median of calls of two bundles, measured alternately on this machine."""

    provider: str
    batch_size: int
    fp32_ms: float
    ms: float

    @property
    def ratio(self) -> float:
        """The variant's time divided by fp32's; above 1 it is slower."""
        return self.ms / self.fp32_ms


@dataclass(frozen=True)
class Comparison:
    """A variant and the fp32 bundle, on the validation images and on this machine.

    Their accuracies, 0 to 1, are of the metric `measure`; `difference` is the largest of a
    probability.
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
        """Sentences about the variant's drawbacks."""
        remarks = [
            f"{self.precision} is slower than fp32 here: {speed.ratio:.2f} times as long on "
            f"{speed.provider} with {counted(speed.batch_size, 'image')} per call"
            for speed in self.speeds
            if speed.ratio >= _SLOWER
        ]
        if self.difference >= _LARGE_DIFFERENCE:
            remarks.append(
                f"single probabilities differ from fp32's by up to {self.difference:.2f}: "
                "choose thresholds again"
            )
        return remarks

    def to_json(self) -> dict[str, Any]:
        """The keys that `export --json` adds for a variant."""
        return {
            "fp32": {
                "size_bytes": self.fp32_size_bytes,
                self.measure: self.fp32_accuracy,
                "max_abs_difference": self.difference,
            },
            "speed": [{**asdict(speed), "ratio": speed.ratio} for speed in self.speeds],
            "remarks": self.remarks,
        }


def comparable_accuracy(metrics: Mapping[str, Any]) -> tuple[str, float]:
    """The key and value of the metric that a variant must not lose."""
    key = "mean_average_precision" if metrics["task"] == Task.MULTILABEL else "accuracy"
    value = metrics[key]
    if value is None:
        raise PrecisionError(
            "precisions cannot be compared, because no label is true of some validation images "
            "and false of others; export fp32"
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
    """Converts a graph and calibrates it again, because rounding changes its outputs.

    A sample of `train` gives the ranges of activations; temperature and, for multilabel, thresholds
    are fitted on `val`.

    Raises:
        PrecisionError: The graph cannot be converted, or its golden vector depends on rounding.
    """
    converted = convert(model, precision, _sample(train, metadata.resize, seed))
    run = _logits_session(converted, len(metadata.labels))
    logits = np.concatenate([run(images) for images in batches(val, metadata.resize)])
    if not np.isfinite(logits).all():
        raise PrecisionError(f"the network overflows in {precision}; export another precision")
    targets = targets_of(val, len(metadata.labels), metadata.task)
    temperature = fit_temperature(logits, targets, metadata.task)
    thresholds: tuple[float, ...] = ()
    if metadata.task is Task.MULTILABEL:
        thresholds = fit_thresholds(probabilities_of(logits, temperature, metadata.task), targets)
    # As the graph stores it.
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
    # Without optimisations onnxruntime computes in float32 between 8-bit steps, as on CUDA.
    difference = float(np.abs(golden - rounded).max())
    tolerances = TOLERANCES[precision]
    if difference > min(tolerances.values()):
        raise PrecisionError(
            f"the golden vector changes by {difference:.2g} in {precision} when sums are rounded "
            "differently, so the bundle would not load everywhere; export another precision"
        )
    return with_temperature(converted, temperature), replace(
        metadata,
        precision=precision,
        golden=Golden(image, golden, tolerances),
        label_thresholds=thresholds,
        card={**metadata.card, "temperature": temperature},
    )


def compare_speed(fp32: Path, variant: Path) -> list[Speed]:
    """Times the files of two bundles alternately on the CPU and, if there is one, on the GPU.

    Raises:
        BundleError: A golden vector is not met on one of the providers.
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
        if number >= _MIN_ROUNDS and time.perf_counter() - began > _MAX_S:
            break
        # The first call of a round changes the caches for the second, so they alternate.
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            bundles[index].predict(images)
            seconds[index].append(time.perf_counter() - start)
    fp32_ms, ms = (float(np.median(times)) * 1e3 for times in seconds)
    return Speed(fp32.provider, batch_size, fp32_ms, ms)


def _logits_session(model: onnx.ModelProto, num_labels: int, optimised: bool = True) -> Any:
    """A function from `(N, H, W, 3)` uint8 to the graph's `(N, C)` float32 logits."""
    import onnxruntime

    copy = deepcopy(model)
    name = logits_of(copy.graph)
    logits = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", num_labels])
    copy.graph.output.append(logits)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    return lambda images: session.run([name], {"images": images})[0]


def _sample(examples: Sequence[Example], resize: ResizeRule, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    count = min(CALIBRATION_SIZE, len(examples))
    chosen = [examples[i] for i in np.sort(rng.choice(len(examples), count, replace=False))]
    return np.concatenate(list(batches(chosen, resize)))
