"""A process that owns a device: `python -m limelens.serve.processes.device_owner`.

It has the sessions of all models, and runs them for the workers of one server, which hand it images
in shared memory. A supervisor starts it, with the socket on which workers reach it and those that
replace it, and tells it when to begin. What a worker opened is closed when that worker is gone.
Signals do not end it: workers that finish their calls need it, whoever told them to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, Final, TypeVar

import numpy as np

from limelens.serve.bundle import Bundle, Metadata, load_bundle
from limelens.serve.bundle.devices import CUDA
from limelens.serve.bundle.execution.batch_sizes import Runs
from limelens.serve.bundle.execution.device_thread import Urgency
from limelens.serve.bundle.execution.perturbing import RowModel
from limelens.serve.bundle.execution.prepared import pin
from limelens.serve.bundle.loading import load_runtime
from limelens.serve.bundle.remote.device_client import DeviceGoneError
from limelens.serve.bundle.remote.protocol import (
    BeginExplanation,
    CloseModel,
    EndExplanation,
    Hello,
    MapBatch,
    Message,
    Opened,
    OpenModel,
    PrepareRows,
    PrepareSizes,
    Ran,
    RunBatch,
    RunRows,
    is_same_user,
    tensors_of,
)
from limelens.serve.bundle.remote.shared_batch import SharedBatch
from limelens.serve.errors import LimelensError
from limelens.serve.observing.logs import set_up_logs
from limelens.serve.processes.channel import Channel, receive_first
from limelens.serve.processes.child_process import HANGS_S
from limelens.serve.processes.joined_batches import HandedBatch, JoinedBatches
from limelens.serve.processes.messages import DeviceAssignment
from limelens.serve.processes.worker_process import LOAD_S
from limelens.serve.rpc.transport.listening import allow_many_connections
from limelens.serve.rpc.transport.memory import give_large_blocks_back
from limelens.serve.wording import first_line

T = TypeVar("T")

_PAUSE_S: Final = 0.5
"""Before the next worker is let in, when this process has no file or thread left."""
_log: Final = logging.getLogger(__name__)


@dataclass(eq=False)
class _Model:
    """A model that is open, for all workers that asked for it."""

    bundle: Bundle
    runs: Runs
    opened: Opened
    joined: JoinedBatches


@dataclass(eq=False)
class _Share:
    """One worker's part of a model; the numbers are the worker's."""

    model: _Model
    batches: dict[int, SharedBatch] = field(default_factory=dict)
    explanations: dict[int, RowModel] = field(default_factory=dict)

    def map(self, message: MapBatch, file: int) -> None:
        """Maps a batch's memory."""
        batch = SharedBatch.over(file, message.shape)
        if self.model.bundle.provider == CUDA:
            self.model.runs.thread.call(lambda: pin(batch.memory))
        self.batches[message.batch] = batch

    def close(self) -> None:
        """Frees the memory, in the device's thread, where it cannot disturb a capture."""
        self.explanations.clear()
        self.model.runs.thread.submit(self.batches.clear, Urgency.CHUNK)


@dataclass(eq=False)
class _Worker:
    """What one worker has open, by its numbers."""

    num_connections: int = 0
    shares: dict[int, _Share] = field(default_factory=dict)


class _Connection(Connection):
    """One that a thread closes while another may answer on it.

    The answer would otherwise reach whoever is connected under its number by then.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self._using = threading.Lock()

    def send(self, obj: Any) -> None:
        with self._using:
            super().send(obj)

    def close(self) -> None:
        with self._using:
            super().close()


def _open(opened: Mapping[int, T], number: int) -> T:
    """What a worker has open under a number.

    Raises:
        DeviceGoneError: It was open in the process that this one replaced.
    """
    if number not in opened:
        raise DeviceGoneError()
    return opened[number]


class DeviceOwner:
    """The models of one device, and the connections of the workers that use them.

    Args:
        assignment: Which device, and how it is used.
    """

    def __init__(self, assignment: DeviceAssignment) -> None:
        self._assignment = assignment
        self._name = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._is_left = threading.Condition(self._lock)
        self._workers: dict[bytes, _Worker] = {}
        self._opening = threading.Lock()
        self._loading_since: float | None = None
        self._models: weakref.WeakValueDictionary[bytes, _Model] = weakref.WeakValueDictionary()

    @property
    def at_work_s(self) -> float:
        """For how long, in seconds, the device has been at the same piece of work.

        To load a model takes long, and counts only if it takes longer than `LOAD_S`.
        """
        since = self._loading_since
        loading_s = 0.0 if since is None else time.monotonic() - since
        threads = {one.runs.thread for one in list(self._models.values())}
        return max([loading_s if loading_s > LOAD_S else 0.0, *(one.at_work_s for one in threads)])

    def listen(self, listener: socket.socket) -> None:
        """Takes connections, for ever."""
        while True:
            try:
                end, _ = listener.accept()
                with end:
                    if is_same_user(end, os.getuid()):
                        given = (_Connection(end.detach()),)
                        threading.Thread(target=self._converse, args=given, daemon=True).start()
            # No more files or threads; those there are go on.
            except (OSError, RuntimeError) as error:
                _log.error("a worker cannot connect: %s", error)
                time.sleep(_PAUSE_S)

    def wait_until_left(self) -> None:
        """Waits until no worker is connected any more, or the device hangs.

        A connection whose request waits for the device is not closed before that is answered.
        """
        with self._lock:
            while self._workers and self.at_work_s <= HANGS_S:
                self._is_left.wait(_PAUSE_S)

    def _converse(self, connection: Connection) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            hello: Hello = connection.recv()
            with self._lock:
                worker = self._workers.setdefault(hello.token, _Worker())
                worker.num_connections += 1
            try:
                connection.send(self._name)
                while True:
                    self._answer(connection, worker, connection.recv())
            finally:
                self._leave(hello.token, worker)

    def _leave(self, token: bytes, worker: _Worker) -> None:
        """Closes what a worker opened, with its last connection."""
        with self._lock:
            worker.num_connections -= 1
            if worker.num_connections:
                return
            del self._workers[token]
            self._is_left.notify_all()
        for share in worker.shares.values():
            share.close()

    def _answer(self, connection: Connection, worker: _Worker, message: Message) -> None:
        answer: object
        try:
            if isinstance(message, RunBatch):
                self._run_batch(connection, worker, message)  # which answers later
                return
            answer = self._handled(connection, worker, message)
        except LimelensError as error:
            answer = error.with_traceback(None)  # which would keep what was open
        # A runtime may raise anything.
        except Exception as error:
            _log.exception("%s failed", type(message).__name__)
            answer = LimelensError(first_line(error))
        connection.send(answer)

    def _run_batch(self, connection: Connection, worker: _Worker, message: RunBatch) -> None:
        share = _open(worker.shares, message.model)
        model, batch = share.model, _open(share.batches, message.batch)

        def end(error: Exception | None) -> None:
            with contextlib.suppress(OSError):  # the worker is gone
                connection.send(error or Ran(model.runs.sizes))

        model.joined.run(HandedBatch(batch, message.outputs, message.num_images, end))

    def _handled(self, connection: Connection, worker: _Worker, message: Message) -> object:
        assert not isinstance(message, Hello)
        if isinstance(message, OpenModel):
            model = self._open_model(message)
            worker.shares[message.model] = _Share(model)
            return model.opened
        if isinstance(message, MapBatch):
            # First, so that nobody takes the descriptor for the next message.
            file = recv_handle(connection)
            try:
                _open(worker.shares, message.model).map(message, file)
            finally:
                os.close(file)
            return None
        share = _open(worker.shares, message.model)
        model = share.model
        match message:
            case PrepareSizes():
                model.runs.prepare_rest()
                return Ran(model.runs.sizes)
            case PrepareRows():
                rows = model.bundle.rows
                return 0 if rows is None else rows.prepare(message.chunk)
            case BeginExplanation():
                prepare = model.bundle.prepare_perturbed
                assert prepare is not None  # its chunk was told to the worker
                share.explanations[message.explanation] = prepare(
                    message.image, message.canvas, message.columns
                )
            case RunRows():
                respond = _open(share.explanations, message.explanation)
                return respond(message.visible, message.corners)
            case EndExplanation():
                share.explanations.pop(message.explanation, None)
            case CloseModel():
                del worker.shares[message.model]
                share.close()
        return None

    def _open_model(self, message: OpenModel) -> _Model:
        props = repr(sorted(message.props.items())).encode("utf-8", "surrogatepass")
        key = hashlib.sha256(hashlib.sha256(message.data).digest() + props).digest()
        with self._opening:
            model = self._models.get(key)
            if model is None:
                self._loading_since = time.monotonic()
                try:
                    model = self._models[key] = self._loaded(message)
                finally:
                    self._loading_since = None
        return model

    def _loaded(self, message: OpenModel) -> _Model:
        bundle = load_bundle(
            message.path,
            self._assignment.device,
            tf32=self._assignment.tf32,
            max_batch_size=message.max_batch_size,
            few_sizes=message.few_sizes,
            batches=True,
            chunk=None,
            read=lambda _path: (message.data, Metadata.from_props(message.props)),
            tasks=message.tasks,
        )
        runs = bundle.runs
        assert runs is not None  # every device here runs batches
        golden = bundle.metadata.golden.image[np.newaxis]
        probabilities, embedding = bundle.predict_and_embed(golden)
        opened = Opened(
            provider=bundle.provider,
            provider_reason=bundle.provider_reason,
            no_graph_reason=runs.no_graph_reason,
            tf32=bundle.tf32,
            sizes=runs.sizes,
            output_lengths=(
                ("probabilities", probabilities.shape[1]),
                ("embedding", embedding.shape[1]),
            ),
            inputs=tensors_of(bundle.session.get_inputs()),
            outputs=tensors_of(bundle.session.get_outputs()),
        )
        return _Model(bundle, runs, opened, JoinedBatches(bundle))


async def _follow(owner: DeviceOwner, end: socket.socket, listener: socket.socket) -> None:
    """Answers the supervisor, which kills this process; without it, stays until nobody is left."""
    listening = threading.Thread(target=owner.listen, args=(listener,), daemon=True)
    channel = await Channel.over(
        end, {"ping": lambda: owner.at_work_s, "own": lambda: listening.start()}
    )
    await channel.run()
    _log.error("the supervisor is gone; running what its workers still need")
    await asyncio.to_thread(owner.wait_until_left)


def main() -> None:
    """Runs the process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end = socket.socket(fileno=int(sys.argv[1]))
    listener = socket.socket(fileno=int(sys.argv[2]))
    assignment: DeviceAssignment = receive_first(end)
    set_up_logs(assignment.log_level, assignment.log_format, device=assignment.device)
    allow_many_connections()
    give_large_blocks_back()
    load_runtime(assignment.device)  # now, when nobody waits for it
    asyncio.run(_follow(DeviceOwner(assignment), end, listener))
    # Python's own exit would unload libraries under the device's thread.
    os._exit(0)


if __name__ == "__main__":
    main()
