"""Makes the perturbed images of an explanation on the device of the bundle.

Four nodes before the model take each pixel from the image or from its fill. This avoids
transferring images: a row of a few bytes describes each. The graph is derived in memory from the
checked bytes; only the input `images` changes. Rows run in chunks of one size, chosen once, so that
the same rows give the same numbers whatever else runs. It knows graphs and prepared runs, and
nothing of explanations or requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limelens.serve.bundle.execution.batch_sizes import OpenedSession, free_on, preparing, timed
from limelens.serve.bundle.execution.device_thread import DeviceThread, Urgency
from limelens.serve.bundle.execution.prepared import DevicePlacement, PreparedRun
from limelens.serve.bundle.metadata import Metadata
from limelens.serve.errors import BundleError, ModelOutputError

_OWN: Final = "limelens_"
"""Prefix of every added name; the exporter writes no name that begins with it."""
_VISIBLE: Final = _OWN + "visible"
_COLUMNS: Final = _OWN + "columns"
_IMAGE: Final = _OWN + "image"
_CANVAS: Final = _OWN + "canvas"
_PLACES: Final = _OWN + "places"
_CORNERS: Final = _OWN + "corners"

RowModel = Callable[[NDArray[np.bool_], "NDArray[np.intp] | None"], NDArray[np.float32]]
"""`(B, K)` bool rows, and `(B, 2)` corners of windows or None -> `(B, C)` probabilities."""
PreparePerturbed = Callable[[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.intp]], RowModel]
"""See `RowRuns.prepare_rows`."""
CHUNK_S: Final = 0.008
"""How long a chunk may take, in seconds: requests wait that long at most."""
CHUNKS: Final = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Chunk sizes to choose from; even, so that pairs of samples stay together."""
NUM_COLUMNS: Final = (64, 512, 4097)
"""Numbers of columns that rows are padded to; each fits one segment fewer."""
CANVAS_SCALE: Final = 16
"""Limit on a canvas's pixels, as a multiple of the input's pixels."""
_HOPE: Final = 1.6
"""Also tries chunks that are too slow by estimate: the estimate includes copies of the images."""
_ROUNDS: Final = 5


class Rows(Protocol):
    """Makes perturbed images on a device; see `RowRuns`."""

    chunk: int
    """Rows in a run."""

    def prepare_rows(
        self, image: NDArray[np.uint8], canvas: NDArray[np.uint8], columns: NDArray[np.intp]
    ) -> RowModel:
        """See `RowRuns.prepare_rows`."""
        ...


def with_perturbation(data: bytes, height: int, width: int) -> bytes:
    """Derives a graph that takes rows of segments in place of `images`.

    Its inputs are `visible` `(N, K + 1)` bool, the last column true; `columns` `(H, W, 1)` int32,
    each pixel's column; `image` `(1, H, W, 3)` uint8; `canvas` `(P, 3)` uint8, flat; `places`
    `(1, H, W)` int32, the place in the canvas of each pixel of a window; `corners` `(N, 1, 1)`
    int32, the start of each sample's window. Their names begin with `limelens_`.
    """
    model = onnx.load_model_from_string(data)
    graph = model.graph
    added = [
        helper.make_node("Gather", [_VISIBLE, _COLUMNS], [_OWN + "shown"], axis=1),
        helper.make_node("Add", [_CORNERS, _PLACES], [_OWN + "window"]),
        helper.make_node("Gather", [_CANVAS, _OWN + "window"], [_OWN + "hidden"], axis=0),
        helper.make_node("Where", [_OWN + "shown", _IMAGE, _OWN + "hidden"], ["images"]),
    ]
    inputs: list[tuple[str, int, list[int | str]]] = [
        (_VISIBLE, TensorProto.BOOL, ["N", "columns"]),
        (_COLUMNS, TensorProto.INT32, [height, width, 1]),
        (_IMAGE, TensorProto.UINT8, [1, height, width, 3]),
        (_CANVAS, TensorProto.UINT8, ["pixels", 3]),
        (_PLACES, TensorProto.INT32, [1, height, width]),
        (_CORNERS, TensorProto.INT32, ["N", 1, 1]),
    ]
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.input[:]
    graph.input.extend(helper.make_tensor_value_info(*one) for one in inputs)
    return model.SerializeToString()


@dataclass(frozen=True, eq=False)
class _Shared:
    """The inputs of the graph that all samples of one explanation share."""

    image: NDArray[np.uint8]
    canvas: NDArray[np.uint8]
    columns: NDArray[np.int32]
    places: NDArray[np.int32]


class RowRuns:
    """Runs of a graph of `with_perturbation`, at one chunk size and a few numbers of columns.

    Any thread may call. Explanations share memory on the device: their shared inputs are copied
    again whenever two of them alternate.
    """

    def __init__(
        self,
        name: str,
        open_session: Callable[[], OpenedSession],
        input_size: tuple[int, int],
        thread: DeviceThread,
        place: DevicePlacement,
    ) -> None:
        self._name = name
        self._input_size = height, width = input_size
        self._thread = thread
        self._place = place
        self._open = open_session
        self._opened = open_session()
        self._shared = {
            _IMAGE: place.empty((1, height, width, 3), np.uint8),
            _CANVAS: place.empty((CANVAS_SCALE * height * width, 3), np.uint8),
            _COLUMNS: place.empty((height, width, 1), np.int32),
            _PLACES: place.empty((1, height, width), np.int32),
        }
        self._canvas = thread.call(lambda: place.empty_on_host((CANVAS_SCALE * height * width, 3)))
        self._canvas[:] = 0
        self._written: _Shared | None = None
        self._runs: dict[int, PreparedRun] = {}
        self._held: list[Any] = [self._runs]
        self._num_graphs = 0
        self.chunk = 0
        """Rows in a run; 0 until `prepare`."""
        free_on(thread, self, self._held)

    def prepare(self, chunk: int, most_s: float) -> bool:
        """Prepares runs of a chunk size; false if one takes longer than `most_s` seconds."""
        self.chunk = chunk
        self._runs.clear()
        self._write(_nothing_hidden(self._input_size))
        for num_columns in NUM_COLUMNS:
            run = self._prepared(chunk, num_columns)
            if not self._runs:
                fastest_s = self._thread.call(lambda: min(timed(run.run) for _ in range(_ROUNDS)))  # noqa: B023
                if fastest_s > most_s:
                    return False
            self._runs[num_columns] = run
        return True

    def _prepared(self, chunk: int, num_columns: int) -> PreparedRun:
        session = self._opened.session
        if self._opened.no_graph_reason and self._runs:
            session = self._open().session
        inputs = {
            **self._shared,
            _VISIBLE: self._place.empty((chunk, num_columns), np.bool_),
            _CORNERS: self._place.empty((chunk, 1, 1), np.int32),
        }
        self._num_graphs += 1
        graph_id = None if self._opened.no_graph_reason else self._num_graphs
        run = PreparedRun(session, inputs, self._place, graph_id)
        run.write(_VISIBLE, np.ones((chunk, num_columns), np.bool_))
        run.write(_CORNERS, np.zeros((chunk, 1, 1), np.int32))
        run.plan()
        self._thread.call(run.capture)
        return run

    def prepare_rows(
        self,
        image: NDArray[np.uint8],
        canvas: NDArray[np.uint8],
        columns: NDArray[np.intp],
    ) -> RowModel:
        """Prepares the inputs that all samples of an explanation share.

        Args:
            image: `(H, W, 3)` uint8.
            canvas: `(H', W', 3)` uint8, of the image's size to `CANVAS_SCALE` times its pixels.
            columns: `(H, W)`, 0 to K; K is never hidden.
        """
        height, width = self._input_size
        if image.shape != (height, width, 3):
            raise ValueError(
                f"the image is {image.shape}; the bundle expects ({height}, {width}, 3)"
            )
        flat = np.ascontiguousarray(canvas).reshape(-1, 3)
        if len(flat) > CANVAS_SCALE * height * width:
            raise ValueError(
                f"the canvas has {len(flat)} pixels; expected at most "
                f"{CANVAS_SCALE * height * width}"
            )
        places = np.arange(height)[:, np.newaxis] * canvas.shape[1] + np.arange(width)
        shared = _Shared(
            np.ascontiguousarray(image[np.newaxis]),
            flat,
            np.ascontiguousarray(columns[..., np.newaxis], dtype=np.int32),
            np.ascontiguousarray(places[np.newaxis], dtype=np.int32),
        )
        canvas_width = canvas.shape[1]

        def respond(
            visible: NDArray[np.bool_], corners: NDArray[np.intp] | None
        ) -> NDArray[np.float32]:
            begins = np.zeros(len(visible), np.int32)
            if corners is not None:
                begins[:] = corners[:, 0] * canvas_width + corners[:, 1]
            starts = range(0, len(visible), self.chunk)
            parts = [
                self._chunk(shared, visible[i : i + self.chunk], begins[i : i + self.chunk])
                for i in starts
            ]
            probabilities = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if not np.isfinite(probabilities).all():
                raise ModelOutputError(f"{self._name} gave values that are not finite")
            return probabilities

        return respond

    def _chunk(
        self, shared: _Shared, visible: NDArray[np.bool_], begins: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        count, num_segments = visible.shape
        num_columns = next(most for most in NUM_COLUMNS if most > num_segments)
        rows = np.ones((self.chunk, num_columns), np.bool_)
        rows[:count, :num_segments] = visible
        corners = np.zeros((self.chunk, 1, 1), np.int32)
        corners[:count, 0, 0] = begins
        run = self._runs[num_columns]

        def work() -> NDArray[np.float32]:
            if self._written is not shared:
                self._write(shared)
            run.write(_VISIBLE, rows)
            run.write(_CORNERS, corners)
            run.run()
            return run.read("probabilities", count)

        return self._thread.call(work, Urgency.CHUNK)

    def _write(self, shared: _Shared) -> None:
        self._written = None
        self._canvas[: len(shared.canvas)] = shared.canvas
        self._shared[_IMAGE].update_inplace(shared.image)
        self._shared[_CANVAS].update_inplace(self._canvas)
        self._shared[_COLUMNS].update_inplace(shared.columns)
        self._shared[_PLACES].update_inplace(shared.places)
        self._written = shared


def open_row_runs(
    metadata: Metadata,
    *,
    open_session: Callable[[], OpenedSession],
    thread: DeviceThread,
    place: DevicePlacement,
    tolerance: float,
    estimate_s: Callable[[int], float],
    chunk: int = 0,
) -> RowRuns:
    """Opens runs of a derived graph, and proves that they meet the golden vector.

    A chunk size of 0 chooses the largest whose run takes less than `CHUNK_S`; `estimate_s`
    estimates that for a batch of some size.
    """
    with preparing:
        try:
            size = metadata.resize.height, metadata.resize.width
            runs = RowRuns(metadata.name, open_session, size, thread, place)
            fitting = [one for one in CHUNKS if estimate_s(one) < _HOPE * CHUNK_S]
            for one in [chunk] if chunk else reversed(fitting or CHUNKS[:1]):
                if runs.prepare(one, math.inf if chunk or one == CHUNKS[0] else CHUNK_S):
                    break
            golden = metadata.golden
            everything = np.zeros(golden.image.shape[:2], dtype=np.intp)
            of_rows = runs.prepare_rows(golden.image, np.zeros_like(golden.image), everything)
            found = of_rows(np.ones((1, 1), dtype=np.bool_), None)
        # A runtime may raise anything for a graph that it cannot run.
        except Exception as error:
            raise BundleError(
                f"{metadata.name}: its perturbing graph cannot be run: {error}"
            ) from error
    difference = float(np.abs(found - golden.probabilities).max())
    if not difference <= tolerance:
        raise BundleError(
            f"{metadata.name}: its perturbing graph misses the golden vector by {difference:.2g}"
        )
    return runs


def _nothing_hidden(input_size: tuple[int, int]) -> _Shared:
    """Shared inputs whose indices are all within bounds."""
    height, width = input_size
    return _Shared(
        np.zeros((1, height, width, 3), np.uint8),
        np.zeros((height * width, 3), np.uint8),
        np.zeros((height, width, 1), np.int32),
        np.arange(height * width, dtype=np.int32).reshape(1, height, width),
    )
