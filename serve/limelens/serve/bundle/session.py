"""A bundle that runs: one onnxruntime session on a device that was checked.

It knows how images go in, and that outputs must be finite and of their shape. It knows nothing of
requests, threads or queues; `predict` may be called from several threads at once.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.execution.batch_sizes import Runs
from limelens.serve.bundle.metadata import Metadata, Task
from limelens.serve.errors import (
    BundleError,
    InvalidRequestError,
    ModelOutputError,
    UnavailableError,
)
from limelens.serve.wording import first_line

if TYPE_CHECKING:
    from limelens.serve.bundle.execution.perturbing import PreparePerturbed, Rows

_CHOOSING_S: Final = 30.0
"""How long an explanation waits for its chunk size if several processes must use the same."""
_FEWEST, _MOST = 4, 32
_PIXELS_AT_ONCE: Final = 2**17
"""Pixels of input in one call: the intermediate results of more no longer fit a core's cache."""
_WARM_UP_ROUNDS: Final = 2


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model that is ready to run; see `load_bundle`.

    Args:
        version: 1, 2, 3 …; 0 if the file is not in a model repository.
        provider: The execution provider that the session really runs on.
        provider_reason: Why it is not the requested one; empty if it is.
        num_threads: How many threads may usefully call `predict` at once.
        session: The `onnxruntime.InferenceSession`; on a GPU only `runs` may run it.
        runs: On a GPU, the prepared batch sizes; else None.
        rows: On a GPU, makes perturbed images there; else None.
        tf32: Whether a GPU may round the inputs of products to 10 bits.
        file: The bytes of the file if other processes load it; else empty.
    """

    metadata: Metadata
    version: int
    path: Path
    provider: str
    provider_reason: str
    num_threads: int
    session: Any = field(repr=False)
    runs: Runs | None = field(default=None, repr=False)
    rows: ExplanationRows | None = field(default=None, repr=False)
    tf32: bool = False
    file: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.metadata.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the columns that `predict` returns."""
        return self.metadata.labels

    @property
    def task(self) -> Task:
        """Multiclass or multilabel."""
        return self.metadata.task

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that `predict` takes, in pixels."""
        return self.metadata.resize.height, self.metadata.resize.width

    @functools.cached_property
    def embedding_size(self) -> int:
        """Length of the feature vectors; measured if the graph leaves it open."""
        for output in self.session.get_outputs():
            if output.name == "embedding" and isinstance(output.shape[-1], int):
                return int(output.shape[-1])
        _, embedding = self.predict_and_embed(self.metadata.golden.image[np.newaxis])
        return int(embedding.shape[1])

    @functools.cached_property
    def references(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """The golden images as `limelens.explain` hides segments by them; None if there are none.

        `(M, H, W, 3)` uint8 of `input_size`, and `(M, C)` which labels each has. Decoded once.

        Raises:
            BundleError: One cannot be decoded.
        """
        golden = self.metadata.golden_images
        if not golden:
            return None
        images = np.stack([one.fitted(self.metadata.resize) for one in golden])
        return images, np.array([[label in one.labels for label in self.labels] for one in golden])

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the model, whatever its name and version: SHA-256 of its metadata.

        The metadata include the golden vector, so models with other weights differ; how it is
        explained changes nothing. The file itself is no longer in memory, and may have been
        replaced.
        """
        digest = hashlib.sha256()
        for key, value in sorted(replace(self.metadata, explain=None).to_props().items()):
            digest.update(f"{key}={value}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def max_concurrency(self) -> int:
        """How many threads `limelens.explain` should call from.

        On a GPU two: one prepares a chunk while the chunk of the other runs.
        """
        return self.num_threads if self.runs is None else 2

    @property
    def batch_size(self) -> int:
        """How many images a call of `predict` should get if there are many."""
        if self.runs is not None:
            rows = self._rows
            return self.runs.sizes[-1] if rows is None else rows.chunk
        height, width = self.input_size
        return min(_MOST, max(_FEWEST, _PIXELS_AT_ONCE // (height * width)))

    @property
    def prepare_perturbed(self) -> PreparePerturbed | None:
        """Makes `limelens.explain`'s perturbed images on the device, from rows of a few bytes.

        None on the CPU, which gains nothing by it.
        """
        rows = self._rows
        return None if rows is None else rows.prepare_rows

    @property
    def _rows(self) -> Rows | None:
        return None if self.rows is None else self.rows.get()

    def prepare(self, chunk: int = 0) -> int:
        """Prepares, on a GPU, the remaining sizes; returns the chunk of explanations, or 0.

        Without it the first explanation waits for that, and small batches are padded more.
        """
        if self.runs is None or self.rows is None:
            return 0
        self.runs.prepare_rest()
        return self.rows.prepare(chunk)

    def warm_up(self) -> None:
        """Runs the golden image: a runtime plans memory when it first sees a batch."""
        with refusing_failures(self.path):
            for _ in range(_WARM_UP_ROUNDS):
                self.predict_and_embed(self.metadata.golden.image[np.newaxis])

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities for a batch.

        Args:
            images: `(N, H, W, 3)` uint8 RGB pixels of `input_size`.

        Returns:
            `(N, C)` float32 probabilities, 0 to 1; rows sum to 1 for multiclass bundles.

        Raises:
            InvalidRequestError: The shape or the dtype differs.
            ModelOutputError: A probability is not finite, or the output has another shape.
        """
        (probabilities,) = self._run(["probabilities"], images)
        return probabilities

    def predict_and_embed(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `predict`, with the `(N, D)` float32 feature vectors of the images."""
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
        """Refuses images that the model does not take."""
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
        """Refuses impossible results of the named outputs, for a run of `count` images."""
        num_columns = len(self.metadata.golden.probabilities)
        for name, values in zip(outputs, results, strict=True):
            fits = values.ndim == 2 and len(values) == count
            if not fits or (name == "probabilities" and values.shape[1] != num_columns):
                raise ModelOutputError(
                    f"{self.name} gave {name} of shape {values.shape} for {count} images"
                )
            if not np.isfinite(values).all():
                raise ModelOutputError(f"{self.name} gave values that are not finite")


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divides finite `(N, D)` float32 vectors by their Euclidean lengths, unless those are 0."""
    # In 64 bits: squares of large float32 numbers would overflow.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    units: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return units


class ExplanationRows:
    """What makes perturbed images on a GPU; opened once, when it is first needed."""

    def __init__(self, open_rows: Callable[[int], Rows | None], chunk: int | None) -> None:
        self._open = open_rows
        self._chunk = chunk
        self._lock = threading.Lock()
        self._opened: list[Rows | None] = []
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

    def get(self) -> Rows | None:
        """The opened runs; None if the GPU cannot make the images."""
        self._is_chosen.wait(_CHOOSING_S)
        self.prepare()
        return self._opened[0]


@contextmanager
def refusing_failures(path: Path) -> Iterator[None]:
    """Turns whatever a runtime raises for a graph that it could load into a `BundleError`."""
    try:
        yield
    except UnavailableError:  # no fault of the graph
        raise
    except ModelOutputError as error:
        raise BundleError(f"{path}: {error}") from error
    except Exception as error:
        raise BundleError(f"{path}: it cannot be run: {first_line(error)}") from error
