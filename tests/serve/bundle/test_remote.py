"""Models whose sessions are in a process that owns the device."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.stand_in import random_images, stand_in
from tests.serve.strict_owner import StrictOwner
from tests.waiting import until

from limelens.explain import explain
from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.remote.device_client import (
    DEVICE_PROCESS,
    DeviceGoneError,
    device_client,
)
from limelens.serve.bundle.remote.protocol import PrepareSizes, is_same_user
from limelens.serve.bundle.remote.runs import RemoteRuns
from limelens.serve.bundle.remote.shared_batch import BatchShape, SharedBatch
from limelens.serve.errors import BundleError

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


def test_a_device_s_process_that_was_killed_is_told_at_once_and_its_replacement_goes_on(
    owner: StrictOwner, path: Path
) -> None:
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


def test_a_file_that_no_device_s_process_survives_is_refused(path: Path) -> None:
    is_over = threading.Event()
    with StrictOwner(dies=True) as owner:

        def keep() -> None:
            while not is_over.is_set():
                owner.restart_if_ended()

        keeping = threading.Thread(target=keep)
        keeping.start()
        try:
            with pytest.raises(BundleError, match="ended 2 times while it loaded it"):
                load_bundle(path, owner.device)
        finally:
            is_over.set()
            keeping.join()


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
    assert client.request(PrepareSizes(model))
    bundle = None
    gc.collect()

    def is_closed() -> bool:
        try:
            client.request(PrepareSizes(model))
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
    other = SharedBatch.over(os.dup(batch.file), shape)
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
        SharedBatch.over(os.dup(batch.file), BatchShape(300, (50, 70), ()))


def test_only_processes_of_the_same_user_are_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_same_user(ours, os.getuid())
        assert not is_same_user(ours, os.getuid() + 1)
