"""A bundle that makes the perturbed pictures of an explanation on its own device.

Three nodes before the model pick each pixel from the picture or from what hides it, so that rows
of a few bytes travel to the device and not pictures. Derived in memory from the bytes that were
checked; nothing but `images` changes. It knows graphs and onnxruntime's bindings, and nothing of
explanations or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limelens.serve.bundle.session import CPU, Bundle, Device, open_session
from limelens.serve.errors import BundleError, ModelOutputError

_OWN: Final = "limelens_"
"""Begins every name that is added; the exporter's names do not."""
_VISIBLE: Final = _OWN + "visible"
_COLUMNS: Final = _OWN + "columns"
_PICTURE: Final = _OWN + "picture"
_CANVAS: Final = _OWN + "canvas"
_PLACES: Final = _OWN + "places"
_CORNERS: Final = _OWN + "corners"

RowModel = Callable[[NDArray[np.bool_], "NDArray[np.intp] | None"], NDArray[np.float32]]
"""`(B, K)` bool and `(B, 2)` corners of windows, or None -> `(B, C)` probabilities."""
Prepare = Callable[[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.intp]], RowModel]
"""See `PerturbingSession.prepare`."""


def with_perturbation(data: bytes, height: int, width: int) -> bytes:
    """The graph of a bundle, with rows of segments in place of `images`.

    Its inputs are `visible` `(N, K + 1)` bool, the last column true; `columns` `(H, W, 1)` int32,
    each pixel's column; `picture` `(1, H, W, 3)` uint8; `canvas` `(P, 3)` uint8, flat; `places`
    `(1, H, W)` int32, where in the canvas each pixel of a window lies; `corners` `(N, 1, 1)`
    int32, where the window of each sample begins. All of them begin with `limelens_`.

    Args:
        data: A bundle's bytes, checked.
        height: Of its input.
        width: Of its input.
    """
    model = onnx.load_model_from_string(data)
    graph = model.graph
    added = [
        helper.make_node("Gather", [_VISIBLE, _COLUMNS], [_OWN + "shown"], axis=1),
        helper.make_node("Add", [_CORNERS, _PLACES], [_OWN + "window"]),
        helper.make_node("Gather", [_CANVAS, _OWN + "window"], [_OWN + "hidden"], axis=0),
        helper.make_node("Where", [_OWN + "shown", _PICTURE, _OWN + "hidden"], ["images"]),
    ]
    inputs: list[tuple[str, int, list[int | str]]] = [
        (_VISIBLE, TensorProto.BOOL, ["N", "columns"]),
        (_COLUMNS, TensorProto.INT32, [height, width, 1]),
        (_PICTURE, TensorProto.UINT8, [1, height, width, 3]),
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
class PerturbingSession:
    """A session over a graph of `with_perturbation`.

    Args:
        name: The model's, for errors.
        session: The `onnxruntime.InferenceSession`.
        device: Where onnxruntime keeps its inputs: `cpu` or `cuda`.
    """

    name: str
    session: Any = field(repr=False)
    device: str

    def prepare(
        self,
        picture: NDArray[np.uint8],
        canvas: NDArray[np.uint8],
        columns: NDArray[np.intp],
    ) -> RowModel:
        """Puts what all samples share on the device, once.

        Args:
            picture: `(H, W, 3)`.
            canvas: `(H', W', 3)`, of the picture's size or larger.
            columns: `(H, W)`, K where nothing hides the pixel.

        Returns:
            The model of rows; may be called from several threads.
        """
        from onnxruntime import OrtValue

        height, width = picture.shape[:2]
        canvas_width = canvas.shape[1]
        places = np.arange(height)[:, np.newaxis] * canvas_width + np.arange(width)
        shared = {
            name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)
            for name, array in (
                (_PICTURE, picture[np.newaxis]),
                (_CANVAS, canvas.reshape(-1, 3)),
                (_COLUMNS, columns[..., np.newaxis].astype(np.int32)),
                (_PLACES, places[np.newaxis].astype(np.int32)),
            )
        }

        def answer(
            visible: NDArray[np.bool_], corners: NDArray[np.intp] | None
        ) -> NDArray[np.float32]:
            num_rows, num_columns = visible.shape
            rows = np.ones((num_rows, num_columns + 1), dtype=np.bool_)
            rows[:, :-1] = visible
            begins = np.zeros((num_rows, 1, 1), dtype=np.int32)
            if corners is not None:
                begins[:, 0, 0] = corners[:, 0] * canvas_width + corners[:, 1]
            binding = self.session.io_binding()
            for name, value in shared.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_cpu_input(_VISIBLE, rows)
            binding.bind_cpu_input(_CORNERS, begins)
            binding.bind_output("probabilities")
            self.session.run_with_iobinding(binding)
            probabilities: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
            if not np.isfinite(probabilities).all():
                raise ModelOutputError(f"{self.name} gave values that are not finite")
            return probabilities

        return answer


def open_perturbing(bundle: Bundle, data: bytes) -> PerturbingSession:
    """The session that makes pictures, on the bundle's device, proved to give its answers.

    Args:
        bundle: The bundle.
        data: The bytes that it was loaded from.

    Raises:
        BundleError: The derived graph cannot be run, or misses the golden vector.
        ProviderError: The device is gone.
    """
    import onnxruntime

    device: Device = "cpu" if bundle.provider == CPU else "cuda"
    derived = with_perturbation(data, *bundle.input_size)
    session, _, _ = open_session(onnxruntime, derived, bundle.path, device)
    found = PerturbingSession(bundle.name, session, device)
    golden = bundle.metadata.golden
    everything = np.zeros(golden.image.shape[:2], dtype=np.intp)
    of_rows = found.prepare(golden.image, np.zeros_like(golden.image), everything)
    try:
        answer = of_rows(np.ones((1, 1), dtype=np.bool_), None)
    # Whatever a runtime may raise for a graph that it could load and cannot run.
    except Exception as error:
        raise BundleError(f"{bundle.path}: its perturbing graph cannot be run: {error}") from error
    difference = float(np.abs(answer - golden.probabilities).max())
    if not difference <= golden.tolerance[bundle.provider]:
        raise BundleError(
            f"{bundle.path}: its perturbing graph misses the golden vector by {difference:.2g}"
        )
    return found
