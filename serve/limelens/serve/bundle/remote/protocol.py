"""What a serving process and the one that owns a device say to each other.

Each message is answered by the value that its docstring names, or by an error, which is raised at
the other end. The serving process numbers what it opens, each number once. Messages are named
tuples, which are pickled faster than dataclasses.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.metadata import Task
from limelens.serve.bundle.remote.shared_batch import BatchShape

_UNKNOWN_USER: Final = Path("/proc/sys/kernel/overflowuid")
_CREDENTIALS: Final = struct.Struct("3i")  # process, user and group


class Hello(NamedTuple):
    """The first message on a connection: bytes that no other process answers, once it is ready.

    Args:
        token: The same on all connections of one process. What it opened is closed with the last.
    """

    token: bytes


class OpenModel(NamedTuple):
    """Opens a model, or takes part in one that another process opened: `Opened`.

    Args:
        model: Its number from now on, on all connections of the process that asks.
        data: The file's checked bytes, with the metadata `props`.
        max_batch_size, few_sizes: As for `load_bundle`, unless the model is open already.
    """

    model: int
    path: Path
    data: bytes
    props: dict[str, str]
    tasks: frozenset[Task]
    max_batch_size: int
    few_sizes: bool


class TensorInfo(NamedTuple):
    """An input or output of a graph, with the attributes of onnxruntime's `NodeArg`."""

    name: str
    shape: tuple[int | str | None, ...]
    type: str


class Opened(NamedTuple):
    """A model that is open; the fields are those of `Bundle` and of its runs.

    Args:
        output_lengths: Name and length of each output of an image.
    """

    provider: str
    provider_reason: str
    no_graph_reason: str
    tf32: bool
    sizes: tuple[int, ...]
    output_lengths: tuple[tuple[str, int], ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class MapBatch(NamedTuple):
    """Maps the memory of a batch, whose descriptor follows: None.

    Args:
        batch: Its number from now on.
    """

    model: int
    batch: int
    shape: BatchShape


class RunBatch(NamedTuple):
    """Runs the first images of a batch, together with those of other processes: `Ran`.

    The named outputs are in the batch's memory then.
    """

    model: int
    batch: int
    outputs: tuple[str, ...]
    num_images: int


class Ran(NamedTuple):
    """A run is done; `sizes` are the batch sizes that are ready now."""

    sizes: tuple[int, ...]


class PrepareSizes(NamedTuple):
    """Prepares the remaining batch sizes: `Ran`."""

    model: int


class PrepareRows(NamedTuple):
    """Prepares what makes perturbed images: the chunk, 0 if the device cannot make them."""

    model: int
    chunk: int


class BeginExplanation(NamedTuple):
    """Prepares the inputs that all samples of an explanation share: None.

    Args:
        explanation: Its number from now on.

    The arrays are those of `RowRuns.prepare_rows`.
    """

    model: int
    explanation: int
    image: NDArray[np.uint8]
    canvas: NDArray[np.uint8]
    columns: NDArray[np.intp]


class RunRows(NamedTuple):
    """Runs samples of an explanation: `(B, C)` float32 probabilities; see `RowModel`."""

    model: int
    explanation: int
    visible: NDArray[np.bool_]
    corners: NDArray[np.intp] | None


class EndExplanation(NamedTuple):
    """Forgets an explanation: None."""

    model: int
    explanation: int


class CloseModel(NamedTuple):
    """Closes a model, and its batches: None."""

    model: int


Message = (
    Hello
    | OpenModel
    | MapBatch
    | RunBatch
    | PrepareSizes
    | PrepareRows
    | BeginExplanation
    | RunRows
    | EndExplanation
    | CloseModel
)


def is_same_user(end: socket.socket, user: int) -> bool:
    """Whether the process at the other end of a Unix socket is that user's.

    In a user namespace, all users that it does not know have one number, which this process may
    have too: then the other one must be in the same namespace.
    """
    found = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, other, _ = _CREDENTIALS.unpack(found)
    if other != user:
        return False
    if user != int(_UNKNOWN_USER.read_text()):
        return True
    try:
        namespaces = {Path(f"/proc/{one}/ns/user").readlink() for one in ("self", process)}
    except OSError:  # it may not be looked at, as one outside
        return False
    return len(namespaces) == 1


def tensors_of(nodes: Any) -> tuple[TensorInfo, ...]:
    """What onnxruntime says of a session's inputs or outputs, as values that can be sent."""
    return tuple(TensorInfo(one.name, tuple(one.shape), one.type) for one in nodes)
