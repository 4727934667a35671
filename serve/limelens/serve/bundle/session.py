"""A bundle that runs: one onnxruntime session on a device that was checked.

It knows how the session is set up, and that its outputs must be finite and of their shape. It
knows nothing of requests, threads or queues; `predict` may be called from several threads at once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.execution.batch_sizes import (
    MAX_BATCH_SIZE,
    BatchRuns,
    OpenedSession,
    batch_sizes,
    first_sizes,
)
from limelens.serve.bundle.execution.device_thread import DeviceThread, device_thread
from limelens.serve.bundle.execution.prepared import Place
from limelens.serve.bundle.metadata import Metadata, Task
from limelens.serve.errors import (
    BundleError,
    InvalidRequestError,
    MissingExtraError,
    ModelOutputError,
    ProviderError,
)

if TYPE_CHECKING:
    from limelens.serve.bundle.execution.perturbing import Prepare, RowRuns

Device = str
"""`auto`, `cpu`, `cuda` (the first GPU) or `cuda:K` (GPU number K)."""

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TF32: Final = CUDA + "+TF32"
"""Of golden vectors' tolerances: CUDA where products round their inputs to 10 bits."""
_TF32_SCALE: Final = 10.0
"""A golden vector that says nothing of TF32 may be missed by so much more with it."""
_NEAR_ONE: Final = 1e-3
_CHOOSING_S: Final = 30.0
"""How long an explanation waits to be told its chunk by whoever keeps several processes alike."""
_FEWEST, _MOST = 4, 32
_PIXELS_AT_ONCE: Final = 2**17  # of inputs: what follows from more no longer fits a core's cache
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A classifier ready to answer; see `load_bundle`.

    Args:
        metadata: What the file says of itself.
        version: 1, 2, 3 …; 0 where the file does not lie in a model repository.
        path: Where it was read from.
        provider: The execution provider that the session really runs on.
        provider_reason: Why it is not the one that was wished for; else empty.
        num_threads: How many threads may usefully call `predict` at once.
        session: The `onnxruntime.InferenceSession`; on a GPU `runs` alone may run it.
        runs: On a GPU, the prepared batch sizes; None runs the session as it is.
        rows: On a GPU, what makes perturbed images there.
        gpu: On a GPU, how it is used; else None.
        file: Its bytes, where other processes load it; else empty.
    """

    metadata: Metadata
    version: int
    path: Path
    provider: str
    provider_reason: str
    num_threads: int
    session: Any = field(repr=False)
    runs: BatchRuns | None = field(default=None, repr=False)
    rows: ExplanationRows | None = field(default=None, repr=False)
    gpu: Gpu | None = field(default=None, repr=False)
    file: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.metadata.name

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the columns that `predict` returns."""
        return self.metadata.labels

    @property
    def task(self) -> Task:
        """Multiclass or multilabel."""
        return self.metadata.task

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that `predict` takes, in pixels."""
        return self.metadata.resize.height, self.metadata.resize.width

    @property
    def max_concurrency(self) -> int:
        """How many threads `limelens.explain` shall call from.

        On a GPU two: one prepares a chunk while the other's runs.
        """
        return self.num_threads if self.runs is None else 2

    @property
    def batch_size(self) -> int:
        """How many images a call of `predict` best takes where there are many."""
        if self.runs is not None:
            rows = self._rows
            return self.runs.sizes[-1] if rows is None else rows.chunk
        height, width = self.input_size
        return min(_MOST, max(_FEWEST, _PIXELS_AT_ONCE // (height * width)))

    @property
    def prepare_perturbed(self) -> Prepare | None:
        """Makes `limelens.explain`'s perturbed images on the device, from rows of a few bytes.

        None on the CPU, where the images are made as fast outside.
        """
        rows = self._rows
        return None if rows is None else rows.prepare_rows

    @property
    def _rows(self) -> RowRuns | None:
        return None if self.rows is None else self.rows.get()

    def prepare(self, chunk: int = 0) -> int:
        """Makes ready, on a GPU, all batch sizes and what explanations need.

        Else the first explanation waits for that, and small batches are padded more than need be.

        Args:
            chunk: Samples in a run; 0 takes what suits the device.

        Returns:
            The chunk that was taken; 0 where images are not perturbed on a GPU.
        """
        if self.runs is None or self.rows is None:
            return 0
        self.runs.prepare_all(batch_sizes(self.runs.sizes[-1]))
        return self.rows.prepare(chunk)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities for a batch.

        Args:
            images: `(N, H, W, 3)` RGB pixels, 0 to 255, of `input_size`.

        Returns:
            `(N, C)` probabilities, 0 to 1; rows sum to 1 for multiclass bundles.

        Raises:
            InvalidRequestError: The shape or the dtype is another.
            ModelOutputError: A probability is not finite, or the output has another shape.
        """
        (probabilities,) = self._run(["probabilities"], images)
        return probabilities

    def predict_and_embed(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Class probabilities and feature vectors for a batch.

        Args:
            images: As for `predict`.

        Returns:
            `(N, C)` probabilities and `(N, D)` embeddings.

        Raises:
            InvalidRequestError: As `predict`.
            ModelOutputError: As `predict`.
        """
        probabilities, embedding = self._run(["probabilities", "embedding"], images)
        return probabilities, embedding

    def _run(self, outputs: list[str], images: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        self.check_images(images)
        results: Sequence[NDArray[np.float32]] = (
            self.session.run(outputs, {"images": images})
            if self.runs is None
            else self.runs.run(outputs, images)
        )
        self.check_outputs(outputs, results, len(images))
        return results

    def check_images(self, images: NDArray[np.uint8]) -> None:
        """Refuses what the model does not take.

        Args:
            images: `(N, H, W, 3)` RGB pixels.

        Raises:
            InvalidRequestError: The shape or the dtype is another.
        """
        height, width = self.input_size
        if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
            raise InvalidRequestError(
                "images",
                f"{images.dtype} {images.shape}; "
                f"the bundle expects uint8 (N, {height}, {width}, 3)",
            )

    def check_outputs(
        self, outputs: Sequence[str], results: Sequence[NDArray[np.float32]], count: int
    ) -> None:
        """Refuses what no model of this bundle's labels gives.

        Args:
            outputs: Names.
            results: What the model gave, in their order.
            count: Images that were run.

        Raises:
            ModelOutputError: A number is not finite, or an output has another shape.
        """
        for name, values in zip(outputs, results, strict=True):
            fits = values.ndim == 2 and len(values) == count
            if not fits or (name == "probabilities" and values.shape[1] != len(self.labels)):
                raise ModelOutputError(
                    f"{self.name} gave {name} of shape {values.shape} for {count} images"
                )
            if not np.isfinite(values).all():
                raise ModelOutputError(f"{self.name} gave values that are not finite")


class ExplanationRows:
    """What makes perturbed images on a GPU, opened once, by whoever needs it first.

    Args:
        open_rows: Opens it for a chunk size, 0 for one that suits the device.
        chunk: As of `load_bundle`.
    """

    def __init__(self, open_rows: Callable[[int], RowRuns | None], chunk: int | None) -> None:
        self._open = open_rows
        self._chunk = chunk
        self._lock = threading.Lock()
        self._opened: list[RowRuns | None] = []
        self._is_chosen = threading.Event()
        if chunk is not None:
            self._is_chosen.set()

    def prepare(self, chunk: int = 0) -> int:
        """See `Bundle.prepare`."""
        with self._lock:
            if not self._opened:
                self._opened.append(self._open(chunk or self._chunk or 0))
        self._is_chosen.set()
        rows = self._opened[0]
        return 0 if rows is None else rows.chunk

    def get(self) -> RowRuns | None:
        """It; None where images are perturbed outside, because the GPU cannot."""
        self._is_chosen.wait(_CHOOSING_S)
        self.prepare()
        return self._opened[0]


@dataclass(frozen=True, eq=False)
class Gpu:
    """How sessions of one bundle run on a GPU.

    Args:
        index: Which of several, from 0.
        thread: Its thread.
        place: Where tensors are kept.
        file: The bundle's bytes, for sessions that are derived from it.
        open: Opens a session of a graph's bytes.
        tf32: Whether products round their inputs to 10 bits.
    """

    index: int
    thread: DeviceThread
    place: Place
    file: bytes = field(repr=False)
    open: Callable[[bytes], OpenedSession] = field(repr=False)
    tf32: bool = False


def load_bundle(
    path: str | os.PathLike[str],
    device: Device = "auto",
    *,
    num_threads: int | None = None,
    tf32: bool = False,
    max_batch_size: int = MAX_BATCH_SIZE,
    few_sizes: bool = False,
    chunk: int | None = 0,
    read: Callable[[Path], tuple[bytes, Metadata]] = read_bundle_file,
) -> Bundle:
    """Loads a bundle and proves that it works here.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: `cuda` or `cuda:K` refuses where there is none; `auto` takes it where it works.
        num_threads: How many threads will call `predict` on the CPU at once; each call runs on
            its caller's thread alone. None means one per core that this process may use.
        tf32: Whether a GPU may round what it multiplies to 10 bits (TensorFloat-32): faster, and
            probabilities change a little. The CPU never does.
        max_batch_size: Largest batch that a GPU prepares; `predict` cuts larger ones up.
        few_sizes: Whether a GPU prepares a few batch sizes only, which is soon done;
            `Bundle.prepare` does the others.
        chunk: Samples of an explanation in a run on a GPU; 0 takes what suits the device, None
            waits until `Bundle.prepare` says.
        read: Reads the file and checks it; what it raises goes to the caller.

    Returns:
        The bundle; its golden vector was met on this device.

    Raises:
        BundleError: The file is missing, is no bundle, or its golden vector is not met.
        InvalidRequestError: There is no such kind of device.
        ProviderError: `cuda` was asked for and cannot be used.
        MissingExtraError: onnxruntime is not installed.
    """
    index = gpu_index(device)
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed; pip install 'limelens[serve-cpu]' or "
            "'limelens[serve-gpu]'"
        ) from error
    path = Path(path)
    if path.is_dir():
        path = path / "model.onnx"
    data, metadata = read(path)
    size = metadata.resize.height, metadata.resize.width
    gpu, runs, reason = None, None, ""
    if index is not None:
        gpu, runs, reason = _on_gpu(onnxruntime, data, size, index, tf32=tf32)
        if runs is None and device != "auto":
            raise ProviderError(f"CUDA was asked for and cannot be used: {reason}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bundle = Bundle(
        metadata=metadata,
        version=_version(path),
        path=path,
        provider=CPU if runs is None else CUDA,
        provider_reason=reason,
        num_threads=(num_threads or cores or 1) if runs is None else 1,
        session=_cpu_session(onnxruntime, data, path) if runs is None else runs.session,
        runs=runs,
        rows=None if gpu is None or runs is None else rows_of(metadata, runs, gpu, chunk=chunk),
        gpu=gpu,
    )
    if runs is not None:
        _prepare(bundle, runs, (first_sizes if few_sizes else batch_sizes)(max_batch_size))
    _check_golden(bundle)
    return bundle


def rows_of(
    metadata: Metadata, runs: BatchRuns, gpu: Gpu, *, chunk: int | None = 0
) -> ExplanationRows:
    """What makes a bundle's perturbed images on its GPU, opened when it is first needed."""

    def open_rows(chunk: int) -> RowRuns | None:
        from limelens.serve.bundle.execution.perturbing import open_row_runs, with_perturbation

        largest = runs.sizes[-1]
        each_s = runs.seconds(largest) / largest
        try:
            height, width = metadata.resize.height, metadata.resize.width
            derived = with_perturbation(gpu.file, height, width)
            return open_row_runs(
                metadata,
                open_session=lambda: gpu.open(derived),
                thread=gpu.thread,
                place=gpu.place,
                tolerance=_tolerance(metadata, CUDA, tf32=gpu.tf32),
                estimate_s=lambda size: size * each_s,
                chunk=chunk,
            )
        except BundleError as error:
            _log.warning("%s: perturbed images are made on the CPU: %s", metadata.name, error)
            return None

    return ExplanationRows(open_rows, chunk)


def gpu_index(device: Device) -> int | None:
    """Which GPU a device is, from 0; None where it is `cpu`.

    Raises:
        InvalidRequestError: It is none.
    """
    if device in ("auto", "cuda"):
        return 0
    if device == "cpu":
        return None
    kind, _, number = device.partition(":")
    if kind == "cuda" and number.isascii() and number.isdecimal() and len(number) <= 3:
        return int(number)
    raise InvalidRequestError("device", f"{device!r}; expected auto, cpu, cuda or cuda:K")


def _prepare(bundle: Bundle, runs: BatchRuns, sizes: Sequence[int]) -> None:
    try:
        runs.prepare_all(sizes)
    # Whatever a runtime may raise for a graph that it could load and cannot run.
    except Exception as error:
        raise BundleError(f"{bundle.path}: it cannot be run: {_one_line(error)}") from error
    if runs.no_graph_reason:
        _log.warning("%s runs without CUDA graphs: %s", bundle.name, runs.no_graph_reason)


def _cpu_session(ort: Any, data: bytes, path: Path) -> Any:
    try:
        return ort.InferenceSession(data, _options(ort), providers=[CPU])
    except Exception as error:
        raise BundleError(f"{path}: onnxruntime cannot run it: {_one_line(error)}") from error


def _on_gpu(
    ort: Any, data: bytes, size: tuple[int, int], index: int, *, tf32: bool
) -> tuple[Gpu | None, BatchRuns | None, str]:
    """How a graph runs on a GPU, or why it does not: onnxruntime alone falls back in silence."""
    if CUDA not in ort.get_available_providers():
        return None, None, "this onnxruntime was built without CUDA (install limelens[serve-gpu])"
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload(directory="")
    thread, place = device_thread(f"cuda:{index}"), Place("cuda", index)

    def opened(graph: bytes) -> OpenedSession:
        return _cuda_session(ort, graph, index, tf32=tf32)

    try:
        runs = BatchRuns(lambda: opened(data), size, thread, place)
    except Exception as error:
        return None, None, _one_line(error)
    return Gpu(index, thread, place, data, opened, tf32), runs, ""


def _cuda_session(ort: Any, data: bytes, index: int, *, tf32: bool) -> OpenedSession:
    """A session whose runs are CUDA graphs, or else one that says why they are not."""
    settings = {
        "device_id": str(index),
        # TF32 would round inputs to 10 bits: another answer than the CPU's.
        "use_tf32": str(int(tf32)),
        # An exhaustive search would prepare sizes much more slowly.
        "cudnn_conv_algo_search": "HEURISTIC",
    }

    def session(more: Mapping[str, str]) -> Any:
        found = ort.InferenceSession(data, _options(ort), providers=[(CUDA, {**settings, **more})])
        if found.get_providers()[0] != CUDA:
            raise ProviderError(
                "onnxruntime could not start it (driver, CUDA or cuDNN libraries missing)"
            )
        return found

    try:
        return OpenedSession(session({"enable_cuda_graph": "1"}))
    except ProviderError:
        raise
    # Some of its nodes have no kernel on the GPU.
    except Exception as error:
        return OpenedSession(session({}), _one_line(error))


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    # One thread a call: the callers' own threads run side by side on one session, which costs
    # less CPU an image than one call spread over cores, and nothing spins while it waits.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _version(path: Path) -> int:
    name = path.parent.name
    return int(name) if name.isdecimal() else 0


def _check_golden(bundle: Bundle) -> None:
    golden = bundle.metadata.golden
    tf32 = bundle.gpu is not None and bundle.gpu.tf32
    try:
        tolerance = _tolerance(bundle.metadata, bundle.provider, tf32=tf32)
    except KeyError:
        raise BundleError(
            f"{bundle.path}: the golden vector has no tolerance for {bundle.provider}"
        ) from None
    twice = np.stack([golden.image, golden.image])
    try:
        found, _ = bundle.predict_and_embed(twice)
    except ModelOutputError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    # Whatever a runtime may raise for a graph that it could load and cannot run.
    except Exception as error:
        raise BundleError(f"{bundle.path}: it cannot be run: {_one_line(error)}") from error
    difference = float(np.abs(found - golden.probabilities).max())
    if not difference <= tolerance:
        raise BundleError(
            f"{bundle.path}: the golden vector is missed by {difference:.2g} on "
            f"{bundle.provider}; {tolerance:.2g} is accepted"
        )
    sums = found.sum(axis=1)
    if found.min() < 0 or found.max() > 1 + _NEAR_ONE:
        raise BundleError(
            f"{bundle.path}: it answers {found.min():.3g} to {found.max():.3g}; "
            "expected probabilities, 0 to 1"
        )
    if bundle.task is Task.MULTICLASS and np.abs(sums - 1).max() > _NEAR_ONE:
        raise BundleError(
            f"{bundle.path}: its probabilities add up to {sums.max():.4g}; "
            "expected 1 of a multiclass bundle"
        )


def _tolerance(metadata: Metadata, provider: str, *, tf32: bool) -> float:
    tolerances = metadata.golden.tolerance
    if tf32 and TF32 in tolerances:
        return tolerances[TF32]
    return tolerances[provider] * (_TF32_SCALE if tf32 else 1.0)


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
