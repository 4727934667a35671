"""A bundle that runs: one onnxruntime session on a device that was checked.

It knows how the session is set up, and that its outputs must be finite and of their shape. It
knows nothing of requests, threads or queues; `predict` may be called from several threads at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.binding import BoundRuns
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.metadata import Metadata, Task
from limelens.serve.errors import (
    BundleError,
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    ModelOutputError,
    ProviderError,
)

if TYPE_CHECKING:
    from limelens.serve.bundle.perturbing import Prepare

Device = Literal["auto", "cpu", "cuda"]

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_NEAR_ONE: Final = 1e-3
_BATCH_ON_GPU: Final = 64
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
        session: The `onnxruntime.InferenceSession`.
        file: Its bytes, for sessions derived from it; empty on the CPU, which derives none.
        bound: Runs it from memory made once, as is best on a GPU; None runs it directly.
    """

    metadata: Metadata
    version: int
    path: Path
    provider: str
    provider_reason: str
    num_threads: int
    session: Any = field(repr=False)
    file: bytes = field(default=b"", repr=False)
    bound: BoundRuns | None = field(default=None, repr=False)

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
        """`num_threads`, as `limelens.explain` asks for it."""
        return self.num_threads

    @property
    def batch_size(self) -> int:
        """How many pictures a call of `predict` best takes where there are many."""
        if self.provider != CPU:
            return _BATCH_ON_GPU
        height, width = self.input_size
        return min(_MOST, max(_FEWEST, _PIXELS_AT_ONCE // (height * width)))

    @cached_property
    def prepare_perturbed(self) -> Prepare | None:
        """Makes `limelens.explain`'s perturbed pictures on the device, from rows of a few bytes.

        None on the CPU, where the pictures are made as fast outside.
        """
        if not self.file:
            return None
        from limelens.serve.bundle.perturbing import open_perturbing

        try:
            return open_perturbing(self, self.file).prepare
        except (BundleError, ProviderError) as error:
            _log.warning("%s: perturbed pictures are made on the CPU: %s", self.name, error)
            return None

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
        height, width = self.input_size
        if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
            raise InvalidRequestError(
                "images",
                f"{images.dtype} {images.shape}; "
                f"the bundle expects uint8 (N, {height}, {width}, 3)",
            )
        results: Sequence[NDArray[np.float32]] = (
            self.session.run(outputs, {"images": images})
            if self.bound is None
            else self.bound.run(outputs, images)
        )
        for name, values in zip(outputs, results, strict=True):
            fits = values.ndim == 2 and len(values) == len(images)
            if not fits or (name == "probabilities" and values.shape[1] != len(self.labels)):
                raise ModelOutputError(
                    f"{self.name} gave {name} of shape {values.shape} for {len(images)} pictures"
                )
            if not np.isfinite(values).all():
                raise ModelOutputError(f"{self.name} gave values that are not finite")
        return results


def load_bundle(
    path: str | os.PathLike[str],
    device: Device = "auto",
    *,
    num_threads: int | None = None,
    read: Callable[[Path], tuple[bytes, Metadata]] = read_bundle_file,
) -> Bundle:
    """Loads a bundle and proves that it works here.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: `cuda` refuses where there is none; `auto` takes it where it works.
        num_threads: How many threads will call `predict` on the CPU at once; each call runs on
            its caller's thread alone. None means one per core that this process may use.
        read: Reads the file and checks it; what it raises goes to the caller.

    Returns:
        The bundle; its golden vector was met on this device.

    Raises:
        BundleError: The file is missing, is no bundle, or its golden vector is not met.
        ProviderError: `cuda` was asked for and cannot be used.
        MissingExtraError: onnxruntime is not installed.
    """
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
    session, provider, reason = open_session(onnxruntime, data, path, device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bundle = Bundle(
        metadata=metadata,
        version=_version(path),
        path=path,
        provider=provider,
        provider_reason=reason,
        num_threads=(num_threads or cores or 1) if provider == CPU else 1,
        session=session,
        file=b"" if provider == CPU else data,
        bound=None
        if provider == CPU
        else BoundRuns(session, (metadata.resize.height, metadata.resize.width), lock_pages=True),
    )
    _check_golden(bundle)
    return bundle


def open_session(ort: Any, data: bytes, path: Path, device: Device) -> tuple[Any, str, str]:
    """A session, the provider it runs on, and why that is not CUDA where it was wished for.

    Raises:
        BundleError: onnxruntime cannot run the graph.
        ProviderError: `cuda` was asked for and cannot be used.
    """
    reason = ""
    if device in ("auto", "cuda"):
        if CUDA in ort.get_available_providers():
            session, reason = _try_cuda(ort, data)
            if session is not None:
                return session, CUDA, ""
        else:
            reason = "this onnxruntime was built without CUDA (install limelens[serve-gpu])"
        if device == "cuda":
            raise ProviderError(f"CUDA was asked for and cannot be used: {reason}")
    try:
        session = ort.InferenceSession(data, _options(ort), providers=[CPU])
    except Exception as error:
        raise BundleError(f"{path}: onnxruntime cannot run it: {_one_line(error)}") from error
    return session, CPU, reason


def _try_cuda(ort: Any, data: bytes) -> tuple[Any, str]:
    """A session on CUDA, or None and the reason: onnxruntime alone falls back in silence."""
    # TF32 would round inputs to 10 bits: another answer than the CPU's.
    provider: tuple[str, Mapping[str, str]] = (CUDA, {"use_tf32": "0"})
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload(directory="")
    try:
        session = ort.InferenceSession(data, _options(ort), providers=[provider])
    except Exception as error:
        return None, _one_line(error)
    if session.get_providers()[0] != CUDA:
        return None, "onnxruntime could not start it (driver, CUDA or cuDNN libraries missing)"
    return session, ""


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
    tolerance = golden.tolerance.get(bundle.provider)
    if tolerance is None:
        raise BundleError(
            f"{bundle.path}: the golden vector has no tolerance for {bundle.provider}"
        )
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device had no memory left, of which runtimes have no class of error."""
    text = str(error).lower()
    return not isinstance(error, LimelensError) and (
        "failed to allocate memory" in text or "out of memory" in text or "bfcarena" in text
    )


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
