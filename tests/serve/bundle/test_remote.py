"""Models whose sessions are in a process that owns the device."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.stand_in import random_images, stand_in
from tests.serve.strict_owner import StrictOwner
from tests.waiting import PATIENCE_S, until, until_async

from limelens.explain import explain
from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.bundle.execution.device_thread import device_thread
from limelens.serve.bundle.remote.device_client import (
    DeviceClient,
    DeviceGoneError,
    device_client,
)
from limelens.serve.bundle.remote.protocol import (
    Hello,
    MapBatch,
    PrepareSizes,
    is_same_user,
)
from limelens.serve.bundle.remote.runs import RemoteRuns
from limelens.serve.bundle.remote.shared_batch import BatchShape, SharedBatch
from limelens.serve.errors import BundleError, UnavailableError
from limelens.serve.processes.device_process import owned_device
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.inference import Counts, FittedImage

pytest.importorskip("skimage")


@pytest.fixture
def owner() -> Iterator[StrictOwner]:
    with StrictOwner() as owner:
        yield owner


@pytest.fixture
def path(one_model: Path) -> Path:
    return one_model / "colours" / "1"


def weights(bundle: Bundle, seed: int = 3) -> list[list[float]]:
    """Of an explanation of one image."""
    photo = random_images(1)[0]
    found = explain(photo, bundle.predict, seed=seed, num_samples=64, segmentation="grid")
    return [[one.weight for one in of_label.weights] for of_label in found.explanations]


def is_open(bundle: Bundle) -> bool:
    try:
        bundle.predict(random_images(1))
    except DeviceGoneError:
        return False
    return True


def test_numbers_vectors_and_descriptions_are_those_of_a_session_here(
    owner: StrictOwner, path: Path
) -> None:
    there, here = load_bundle(path, owner.device), load_bundle(path, "cpu")
    assert isinstance(there.runs, RemoteRuns)
    assert there.provider == "CUDAExecutionProvider"
    assert there.runs.sizes == (1, 2, 4, 8, 16, 32, 64)
    assert there.embedding_size == here.embedding_size
    for count in (0, 1, 3, 16, 141):
        pixels = random_images(count)
        for found, expected in zip(
            there.predict_and_embed(pixels), here.predict_and_embed(pixels), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(there.predict(pixels), here.predict(pixels), atol=1e-5)


def test_explanations_are_made_on_the_device_and_equal_those_of_a_session_here(
    owner: StrictOwner, path: Path
) -> None:
    there, here = load_bundle(path, owner.device), stand_in(path)
    assert there.prepare_perturbed is not None
    for ours, theirs in zip(weights(there), weights(here), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert weights(there) == weights(there)


def test_threads_at_once_get_their_own_numbers(owner: StrictOwner, path: Path) -> None:
    there, here = load_bundle(path, owner.device), load_bundle(path, "cpu")
    wrong: list[Any] = []

    def call(seed: int) -> None:
        for number in range(20):
            pixels = random_images(1 + (seed + number) % 20, seed=100 * seed + number)
            found = there.predict(pixels)
            if not np.allclose(found, here.predict(pixels), atol=1e-5):
                wrong.append((seed, number))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_a_device_s_process_that_was_killed_is_told_and_its_replacement_goes_on(
    owner: StrictOwner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelens.serve.bundle.remote.device_client.PATIENCE_S", 0.0)
    bundle = load_bundle(path, owner.device)
    bundle.prepare()
    before = bundle.predict(random_images(5)), weights(bundle)
    owner.end()
    with pytest.raises(DeviceGoneError, match="starting anew"):
        bundle.predict(random_images(5))
    owner.start()
    until(lambda: is_open(bundle))
    np.testing.assert_allclose(bundle.predict(random_images(5)), before[0], atol=1e-5)
    for found, expected in zip(weights(bundle), before[1], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert bundle.runs is not None
    until(lambda: is_open(bundle) and bundle.runs.sizes == (1, 2, 4, 8, 16, 32, 64))  # type: ignore[union-attr]


async def test_a_batch_that_its_process_did_not_run_is_run_by_the_next_one(
    owner: StrictOwner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelens.serve.bundle.remote.device_client.PATIENCE_S", PATIENCE_S)
    bundle, pixels = load_bundle(path, owner.device), random_images(5)
    expected = load_bundle(path, "cpu").predict(pixels)
    engine = GpuEngine(device_thread(owner.device), num_threads=2)
    try:
        owner.end()
        images = [FittedImage(one) for one in pixels]
        waiting = asyncio.create_task(engine.classify(bundle, images))
        await until_async(lambda: device_thread(owner.device).at_work_s)
        owner.start()
        found = [one.probabilities for one in await waiting]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert engine.counts == Counts(run=5, dropped=0, refused=0, not_finite=0)

        # Nobody waits for a process that has been away for long.
        monkeypatch.setattr("limelens.serve.bundle.remote.device_client.PATIENCE_S", 0.0)
        owner.end()
        with pytest.raises(DeviceGoneError):
            await engine.classify(bundle, images)
        lost = Counts(run=5, dropped=5, refused=0, not_finite=0)
        await until_async(lambda: engine.counts == lost)  # each of its batches is looked at
    finally:
        engine.close()


def test_an_explanation_that_begins_while_no_process_is_there_waits_for_the_next(
    owner: StrictOwner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelens.serve.bundle.remote.device_client.PATIENCE_S", PATIENCE_S)
    bundle, photo = load_bundle(path, owner.device), random_images(1)[0]
    client = device_client(owner.device.removeprefix(DEVICE_PROCESS))
    bundle.prepare()
    before = weights(bundle)
    with ThreadPoolExecutor(2) as pool:
        owner.end()
        until(lambda: not client.session)
        waiting = pool.submit(weights, bundle), pool.submit(bundle.predict, photo[np.newaxis])
        assert not any(one.done() for one in waiting)
        owner.start()
        explained, predicted = (one.result(PATIENCE_S) for one in waiting)
    for found, expected in zip(explained, before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(predicted, bundle.predict(photo[np.newaxis]), atol=1e-5)


def test_what_a_process_hung_at_is_not_run_by_the_next(
    owner: StrictOwner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelens.serve.bundle.remote.runs._HUNG_S", -1.0)
    monkeypatch.setattr("limelens.serve.bundle.remote.device_client.PATIENCE_S", 2 * PATIENCE_S)
    bundle = load_bundle(path, owner.device)
    owner.end()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(bundle.predict, random_images(1))
        try:
            assert isinstance(run.exception(PATIENCE_S), DeviceGoneError)
        finally:
            owner.start()


def test_an_explanation_does_not_go_on_in_another_process(owner: StrictOwner, path: Path) -> None:
    bundle = load_bundle(path, owner.device)
    assert bundle.prepare_perturbed is not None
    photo = random_images(1)[0]
    respond = bundle.prepare_perturbed(photo, np.zeros_like(photo), np.zeros((32, 32), np.intp))
    assert respond(np.ones((3, 1), np.bool_), None).shape == (3, len(bundle.labels))
    owner.end()
    owner.start()
    until(lambda: is_open(bundle))
    with pytest.raises(DeviceGoneError):
        respond(np.ones((3, 1), np.bool_), None)


@contextmanager
def kept(owner: StrictOwner) -> Iterator[None]:
    """Replaces the process whenever it has ended, as a supervisor does."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.is_set():
            owner.restart_if_ended()

    keeping = threading.Thread(target=keep)
    keeping.start()
    try:
        yield
    finally:
        is_over.set()
        keeping.join()


def test_a_file_that_no_device_s_process_survives_is_refused(path: Path) -> None:
    with (
        StrictOwner(dies=True) as owner,
        kept(owner),
        pytest.raises(BundleError, match="ended 2 times while it loaded it"),
    ):
        load_bundle(path, owner.device)


def test_a_file_whose_device_s_process_is_killed_once_is_loaded_by_the_next(path: Path) -> None:
    with StrictOwner(dies_once=True) as owner, kept(owner):
        bundle = load_bundle(path, owner.device)
        found, expected = bundle.predict(random_images(3)), load_bundle(path, "cpu")
        np.testing.assert_allclose(found, expected.predict(random_images(3)), atol=1e-5)


def test_an_owner_that_hangs_while_it_loads_a_model_says_so_and_outlives_no_supervisor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limelens.serve.bundle.remote.loading._STARTING_S", 2 * PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        with StrictOwner(hangs=True) as owner:
            assert owner.at_work_s() == 0
            loaded = pool.submit(load_bundle, path, owner.device)
            until(lambda: owner.at_work_s() > 0.5)
            owner.abandon()
            until(lambda: not owner.is_running)
        # Nobody listens for another one.
        assert isinstance(loaded.exception(PATIENCE_S), DeviceGoneError)


class ListeningHere:
    """The end of a device's process, in this one."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def greeted(self, name: bytes) -> Connection:
        """Takes the next connection, and answers its first message."""
        connection = self.taken()
        assert isinstance(connection.recv(), Hello)
        connection.send(name)
        return connection

    def taken(self) -> Connection:
        end, _ = self._listener.accept()
        return Connection(end.detach())


@pytest.fixture
def listening() -> Iterator[tuple[DeviceClient, ListeningHere]]:
    with owned_device("cuda") as owned:
        client = device_client(owned.name.removeprefix(DEVICE_PROCESS))
        yield client, ListeningHere(owned.listener)


def asked(client: DeviceClient, session: bytes) -> Future[Any]:
    """Of a request in a thread of its own."""
    found: Future[Any] = Future()

    def ask() -> None:
        try:
            found.set_result(client.request(session, PrepareSizes(1)))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return found


def test_a_process_that_ends_while_a_worker_connects_is_told_like_any_other_end(
    listening: tuple[DeviceClient, ListeningHere],
) -> None:
    client, here = listening
    with here.greeted(b"first"):
        found = asked(client, client.wait(PATIENCE_S))
        with here.taken() as connection:
            assert isinstance(connection.recv(), Hello)
        assert isinstance(found.exception(PATIENCE_S), DeviceGoneError)


def test_a_request_waits_for_no_other_process_and_reaches_none(
    listening: tuple[DeviceClient, ListeningHere],
) -> None:
    client, here = listening
    following = here.greeted(b"first")
    session = client.wait(PATIENCE_S)
    # A process that follows answers before the thread that notices it has noticed.
    found = asked(client, session)
    with here.greeted(b"second") as connection:
        assert isinstance(found.exception(PATIENCE_S), DeviceGoneError)
        with pytest.raises(EOFError):
            connection.recv()
    # It connects, and nobody is there to answer when the process ends.
    found = asked(client, session)
    with here.taken() as connection:
        assert isinstance(connection.recv(), Hello)
        following.close()
        assert isinstance(found.exception(PATIENCE_S), DeviceGoneError)
    with here.greeted(b"third"):
        assert client.wait(PATIENCE_S, after=session) == b"third"


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """Within it, a process can open no more files."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_can_open_no_more_files_finds_the_device_again_later() -> None:
    program = (
        "import sys\n"
        "from limelens.serve.bundle.remote.device_client import device_client\n"
        "client = device_client(sys.argv[1])\n"
        "session = client.wait(120)\n"
        "print('here', flush=True)\n"
        "print(client.wait(120, after=session).decode(), flush=True)\n"
    )
    with owned_device("cuda") as owned:
        here = ListeningHere(owned.listener)
        address = owned.name.removeprefix(DEVICE_PROCESS)
        worker = subprocess.Popen(
            [sys.executable, "-c", program, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        assert worker.stderr is not None
        with worker:
            with ExitStack() as limited:
                with here.greeted(b"first"):
                    assert worker.stdout.readline() == "here\n"
                    limited.enter_context(no_more_files(worker.pid))
                assert "Too many open files" in worker.stderr.readline()
            with here.greeted(b"second"):
                assert worker.stdout.readline() == "second\n"


def test_a_request_without_a_file_left_fails_and_waits_for_no_other_process(
    listening: tuple[DeviceClient, ListeningHere],
) -> None:
    client, here = listening
    with here.greeted(b"first"):
        session = client.wait(PATIENCE_S)
        with no_more_files(os.getpid()), pytest.raises(UnavailableError) as found:
            client.request(session, PrepareSizes(1))
        assert "Too many open files" in str(found.value)
        assert not isinstance(found.value, DeviceGoneError)  # for which others wait


def test_an_owner_that_can_open_no_more_files_lets_workers_in_later(
    owner: StrictOwner, path: Path
) -> None:
    load_bundle(path, owner.device)
    address = owner.device.removeprefix(DEVICE_PROCESS)
    with no_more_files(owner.pid):
        clients = [DeviceClient(address) for _ in range(2)]  # as those of other workers
        # It waits for the next with a descriptor in its hand.
        with pytest.raises(DeviceGoneError):
            assert [one.wait(1.0) for one in clients]
    for one in clients:
        assert one.wait(PATIENCE_S) == device_client(address).session


def test_an_owner_keeps_no_descriptor_of_a_batch_that_it_cannot_use(owner: StrictOwner) -> None:
    client = device_client(owner.device.removeprefix(DEVICE_PROCESS))
    session = client.wait(PATIENCE_S)
    batch = SharedBatch.create(BatchShape(1, (8, 8), ()))

    def num_files() -> int:
        with pytest.raises(DeviceGoneError):
            client.request(session, MapBatch(1, 1, batch.shape), batch.file)
        return sum(1 for _ in Path(f"/proc/{owner.pid}/fd").iterdir())

    assert num_files() == num_files()


def test_errors_of_the_device_s_process_are_raised_here(
    owner: StrictOwner, tmp_path: Path, bundles: Any
) -> None:
    metadata = bundles.metadata()
    wrong = replace(metadata.golden, probabilities=metadata.golden.probabilities[::-1].copy())
    path = bundles.save(tmp_path, replace(metadata, golden=wrong), 1)
    with pytest.raises(BundleError, match="the golden vector is missed"):
        load_bundle(path, owner.device)


def test_a_model_is_closed_there_when_nobody_here_needs_it(owner: StrictOwner, path: Path) -> None:
    bundle: Bundle | None = load_bundle(path, owner.device)
    assert bundle is not None
    bundle.predict(random_images(3))
    assert isinstance(bundle.runs, RemoteRuns)
    client, model = device_client(owner.device.removeprefix(DEVICE_PROCESS)), bundle.runs.model
    assert client.request(client.session, PrepareSizes(model))
    bundle = None
    gc.collect()

    def is_closed() -> bool:
        try:
            client.request(client.session, PrepareSizes(model))
        except DeviceGoneError:
            return True
        return False

    until(is_closed)


def test_without_its_supervisor_it_stays_until_nobody_needs_it(
    owner: StrictOwner, path: Path
) -> None:
    program = (
        "import sys\n"
        "from limelens.serve.bundle import load_bundle\n"
        "bundle = load_bundle(sys.argv[1], sys.argv[2])\n"
        "for _ in sys.stdin:\n"
        "    golden = bundle.metadata.golden.image[None]\n"
        "    print(len(bundle.predict(golden)), flush=True)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(path), owner.device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker:

        def ask() -> str:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            return worker.stdout.readline()

        assert ask() == "1\n"
        owner.abandon()
        owner.interrupt()
        assert ask() == "1\n"
        assert owner.is_running
        worker.stdin.close()
    until(lambda: not owner.is_running)


def test_the_memory_of_a_batch_holds_its_arrays_and_cannot_shrink() -> None:
    shape = BatchShape(3, (5, 7), (("probabilities", 2), ("embedding", 3)))
    batch = SharedBatch.create(shape)
    other = SharedBatch.over(batch.file, shape)
    batch.images[:] = 7
    for number, values in enumerate(batch.outputs.values()):
        values[:] = number + 0.5
    assert batch.images.shape == (3, 5, 7, 3)
    assert (other.images == 7).all()
    assert [one.shape for one in other.outputs.values()] == [(3, 2), (3, 3)]
    assert [set(one.ravel()) for one in other.outputs.values()] == [{0.5}, {1.5}]
    with pytest.raises(PermissionError):
        os.ftruncate(batch.file, 10)
    with pytest.raises(ValueError, match="length is greater than file size"):
        SharedBatch.over(batch.file, BatchShape(300, (50, 70), ()))


def test_a_batch_that_cannot_be_mapped_leaves_no_descriptor() -> None:
    shape = BatchShape(2**40, (1000, 1000), ())

    def num_files() -> int:
        with pytest.raises(OSError, match="Cannot allocate memory"):
            SharedBatch.create(shape)
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    assert num_files() == num_files()


def test_only_processes_of_the_same_user_are_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_same_user(ours, os.getuid())
        assert not is_same_user(ours, os.getuid() + 1)


def test_a_user_whom_a_namespace_does_not_know_is_not_taken_for_its_own() -> None:
    program = (
        "import os, socket\n"
        "from limelens.serve.bundle.remote.protocol import is_same_user\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX)\n"
        "assert is_same_user(ours, os.getuid())\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind('')\n"
        "listener.listen()\n"
        "print(listener.getsockname()[1:].decode(), flush=True)\n"
        "print(is_same_user(listener.accept()[0], os.getuid()))\n"
    )
    may = (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "--user", "true"], check=False, capture_output=True
        ).returncode
    )
    if not may:
        pytest.skip("no user namespace can be made here")
    with subprocess.Popen(
        ["unshare", "--user", sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdout is not None
        address = inside.stdout.readline().strip()
        with socket.socket(socket.AF_UNIX) as end:
            end.connect("\0" + address)
            assert inside.stdout.readline() == "False\n"
