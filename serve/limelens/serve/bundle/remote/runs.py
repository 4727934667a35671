"""A bundle's runs and perturbed images, as if its sessions were in this process.

Batches are written into memory that the device's process maps, so that images are not copied on
their way. It knows the messages, and nothing of requests or threads.
"""

from __future__ import annotations

import functools
import itertools
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.execution.batch_sizes import Staging, StagingPool, run_in_parts
from limelens.serve.bundle.execution.device_thread import DeviceThread, device_thread
from limelens.serve.bundle.execution.perturbing import RowModel
from limelens.serve.bundle.remote.device_client import DeviceClient, DeviceGoneError
from limelens.serve.bundle.remote.protocol import (
    BeginExplanation,
    CloseModel,
    EndExplanation,
    MapBatch,
    Message,
    Opened,
    OpenModel,
    PrepareRows,
    PrepareSizes,
    Ran,
    RunBatch,
    RunRows,
    TensorInfo,
)
from limelens.serve.bundle.remote.shared_batch import BatchShape, SharedBatch

T = TypeVar("T")

_HUNG_S: Final = 30.0
"""What the device's process had for so long may be what it hung at; it is not run again."""
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Signature:
    """What of an `onnxruntime.InferenceSession` names inputs and outputs."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def get_inputs(self) -> tuple[TensorInfo, ...]:
        """As onnxruntime's."""
        return self.inputs

    def get_outputs(self) -> tuple[TensorInfo, ...]:
        """As onnxruntime's."""
        return self.outputs


class RemoteRuns(StagingPool):
    """Runs of a model in another process; see `limelens.serve.bundle.execution.batch_sizes.Runs`.

    Args:
        client: The connections to that process.
        message: Opens the model there; its number is replaced.
        input_size: Height and width of an image, in pixels.

    Raises:
        BundleError: It cannot be opened there.
        ProviderError: The device cannot be used.
        DeviceGoneError: No process owns the device, or it ended.
    """

    def __init__(
        self, client: DeviceClient, message: OpenModel, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self._client = client
        self._message = message._replace(model=next(_numbers))
        self._input_size = input_size
        self._thread = device_thread(client.name)
        self._mapped: weakref.WeakKeyDictionary[Staging, tuple[bytes, int]] = (
            weakref.WeakKeyDictionary()
        )
        self._is_prepared = False
        self._chunk = 0
        self._session = b""  # of the client, in which the model is open
        self._follows = False
        self._open()
        weakref.finalize(self, client.send_later, CloseModel(self.model)).atexit = False

    def follow(self) -> None:
        """Has the model opened in each process that follows, for which runs wait from now on.

        Raises:
            DeviceGoneError: The process in which it is open has been replaced.
        """
        if self._client.join(self) not in (b"", self._session):
            raise DeviceGoneError()
        self._follows = True

    @property
    def model(self) -> int:
        """Its number in the device's process."""
        return self._message.model

    @property
    def opened(self) -> Opened:
        """What the device's process found out when it opened the model."""
        return self._opened

    @property
    def thread(self) -> DeviceThread:
        """The thread of this process that hands batches over, one at a time."""
        return self._thread

    @property
    def session(self) -> Signature:
        """See `Runs`."""
        return Signature(self._opened.inputs, self._opened.outputs)

    @property
    def no_graph_reason(self) -> str:
        """See `Runs`."""
        return self._opened.no_graph_reason

    @property
    def sizes(self) -> tuple[int, ...]:
        """See `Runs`; as of the last run."""
        return self._opened.sizes

    def _new_staging(self) -> Staging:
        return SharedBatch.create(
            BatchShape(self.sizes[-1], self._input_size, self._opened.output_lengths)
        )

    def prepare_rest(self) -> None:
        """See `Runs`."""
        self._is_prepared = True
        self._note(self.request(PrepareSizes(self.model)))

    def prepare_rows(self, chunk: int) -> RemoteRows | None:
        """Prepares what makes perturbed images; None if the device cannot make them.

        Args:
            chunk: Samples in a run; 0 chooses what suits the device.
        """
        self._chunk = self.request(PrepareRows(self.model, chunk))
        return RemoteRows(self, self._chunk) if self._chunk else None

    def run(self, outputs: Sequence[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See `Runs`; with the errors of `run_batch`, and as patient."""
        run = functools.partial(self._run_part, outputs)
        return run_in_parts(run, images, self.sizes[-1])

    def run_batch(
        self, outputs: Sequence[str], staging: Staging, count: int
    ) -> list[NDArray[np.float32]]:
        """See `Runs`. If the device's process ends meanwhile, the next one runs the batch.

        Raises:
            DeviceGoneError: That one ended too, did not come, or is not followed; or the first had
                hung.
            OverloadedError: The device has no memory left.
        """
        return self._patiently(lambda: self._run_batch(outputs, staging, count))

    def request(self, message: Message, file: int | None = None) -> Any:
        """As `DeviceClient.request`, of the process that has the model open."""
        return self._client.request(self._session, message, file)

    def request_patiently(self, message: Message) -> Any:
        """As `request`; the next process gets the message if the device's process is gone."""
        return self._patiently(lambda: self.request(message))

    def send_later(self, message: Message) -> None:
        """See `DeviceClient.send_later`."""
        self._client.send_later(message)

    def reopen(self) -> None:
        """See `Member`."""
        self._message = self._message._replace(few_sizes=True)
        self._open()

    def prepare_again(self) -> None:
        """See `Member`."""
        if self._is_prepared:
            self._note(self.request(PrepareSizes(self.model)))
        if self._chunk:
            self.request(PrepareRows(self.model, self._chunk))

    def _open(self) -> None:
        session = self._client.session
        self._opened: Opened = self._client.request(session, self._message)
        self._session = session

    def _patiently(self, work: Callable[[], T]) -> T:
        """Does something once more, in the next process, if the device's process is gone."""
        session, began = self._session, time.monotonic()
        try:
            return work()
        except DeviceGoneError:
            if not self._follows or time.monotonic() - began > _HUNG_S:
                raise
        self._client.wait_for_all(session)
        return work()

    def _run_part(
        self, outputs: Sequence[str], images: NDArray[np.uint8]
    ) -> list[NDArray[np.float32]]:
        staging = self.borrow_staging()
        try:
            np.copyto(staging.images[: len(images)], images)
            return self.run_batch(outputs, staging, len(images))
        finally:
            self.return_staging(staging)

    def _run_batch(
        self, outputs: Sequence[str], staging: Staging, count: int
    ) -> list[NDArray[np.float32]]:
        assert isinstance(staging, SharedBatch)
        batch = self._number_of(staging)
        self._note(self.request(RunBatch(self.model, batch, tuple(outputs), count)))
        return [staging.outputs[name][:count].copy() for name in outputs]

    def _number_of(self, staging: SharedBatch) -> int:
        """The batch's number in the device's process, which maps it first if it is new there."""
        session, number = self._mapped.get(staging, (b"", 0))
        if session != self._session:
            session, number = self._session, next(_numbers)
            message = MapBatch(self.model, number, staging.shape)
            self._client.request(session, message, staging.file)
            self._mapped[staging] = session, number
        return number

    def _note(self, ran: Ran) -> None:
        if ran.sizes != self._opened.sizes:
            self._opened = self._opened._replace(sizes=ran.sizes)


class RemoteRows:
    """Perturbed images that the device's process makes, as `RowRuns` does.

    Args:
        chunk: Rows in a run.
    """

    def __init__(self, runs: RemoteRuns, chunk: int) -> None:
        self._runs = runs
        self.chunk = chunk

    def prepare_rows(
        self,
        image: NDArray[np.uint8],
        canvas: NDArray[np.uint8],
        columns: NDArray[np.intp],
    ) -> RowModel:
        """See `RowRuns.prepare_rows`; waits for a process of the device if there is none."""
        runs, number = self._runs, next(_numbers)
        runs.request_patiently(BeginExplanation(runs.model, number, image, canvas, columns))

        def respond(
            visible: NDArray[np.bool_], corners: NDArray[np.intp] | None
        ) -> NDArray[np.float32]:
            found: NDArray[np.float32] = runs.request(RunRows(runs.model, number, visible, corners))
            return found

        weakref.finalize(
            respond, runs.send_later, EndExplanation(runs.model, number)
        ).atexit = False
        return respond
