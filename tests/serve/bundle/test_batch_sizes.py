"""Prepared batch sizes, on a session that fails on any other; see `tests.serve.stand_in`."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.serve.stand_in import StrictSession, images_run, random_images, stand_in
from tests.waiting import slow_by

from limelens.serve import load_bundle
from limelens.serve.bundle.devices import gpu_index
from limelens.serve.bundle.execution import prepared
from limelens.serve.bundle.execution.batch_sizes import BatchRuns, batch_sizes, first_sizes
from limelens.serve.bundle.execution.device_thread import DeviceThread
from limelens.serve.errors import InvalidRequestError

has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
needs_cuda = pytest.mark.skipif(not has_cuda, reason="this onnxruntime has no CUDA")


@pytest.fixture
def model(one_model: Path) -> Path:
    return one_model / "colours" / "1"


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (64, [1, 2, 4, 8, 16, 32, 64]), (50, [1, 2, 4, 8, 16, 32, 50])],
)
def test_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize("no_graph_reason", ["", "a node has no kernel there"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 40])
def test_any_number_of_images_runs_in_prepared_sizes(
    model: Path, count: int, no_graph_reason: str
) -> None:
    seen: list[list[int]] = []
    bundle = stand_in(model, on_run=images_run(seen), no_graph_reason=no_graph_reason)
    seen.clear()
    images = random_images(count)
    found, vectors = bundle.predict_and_embed(images)
    expected, expected_vectors = load_bundle(model, "cpu").predict_and_embed(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(vectors, expected_vectors, atol=1e-5)
    assert {len(batch) for batch in seen} <= {1, 2, 4, 8}


def test_a_result_is_not_overwritten(model: Path) -> None:
    bundle = stand_in(model)
    first = bundle.predict(np.zeros((3, 32, 32, 3), np.uint8))
    kept = first.copy()
    bundle.predict(np.full((3, 32, 32, 3), 255, np.uint8))
    np.testing.assert_array_equal(first, kept)


def test_threads_at_once_get_their_own_numbers(model: Path) -> None:
    bundle, plain = stand_in(model), load_bundle(model, "cpu")
    batches = [random_images(count) for count in range(1, 30)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(bundle.predict, batches))
    for images, numbers in zip(batches, found, strict=True):
        np.testing.assert_allclose(numbers, plain.predict(images), atol=1e-5)


def test_a_size_that_is_not_ready_is_served_by_the_next_larger_one(model: Path) -> None:
    seen: list[list[int]] = []
    bundle = stand_in(model, max_batch_size=1, on_run=images_run(seen))
    assert isinstance(bundle.runs, BatchRuns)
    bundle.runs.prepare_all([8])
    seen.clear()
    bundle.predict(random_images(3))
    assert [len(batch) for batch in seen] == [8]


@pytest.mark.parametrize(
    ("largest", "first"), [(64, [1, 8, 64]), (2, [1, 2]), (1, [1]), (50, [1, 8, 50])]
)
def test_a_few_sizes_are_enough_to_begin_with(model: Path, largest: int, first: list[int]) -> None:
    assert first_sizes(largest) == first
    bundle = stand_in(model, max_batch_size=1)
    assert isinstance(bundle.runs, BatchRuns)
    bundle.runs.prepare_all(first)
    assert bundle.runs.sizes == tuple(first)
    images = random_images(7)
    expected = load_bundle(model, "cpu").predict(images)
    np.testing.assert_allclose(bundle.predict(images), expected, atol=1e-5)
    bundle.prepare()
    assert bundle.runs.sizes == tuple(batch_sizes(largest))
    np.testing.assert_allclose(bundle.predict(images), expected, atol=1e-5)


def test_sizes_that_are_added_in_service_never_run_beside_another_run(model: Path) -> None:
    class SlowPlan(StrictSession):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            if not binding.outputs:
                with self.running:  # long enough for others to come meanwhile
                    slow_by(0.05)
            super().run_with_iobinding(binding, options)

    bundle = stand_in(model, max_batch_size=1, open_session=SlowPlan)
    assert isinstance(bundle.runs, BatchRuns)
    bundle.runs.prepare_all([8])
    images = random_images(3)
    expected = load_bundle(model, "cpu").predict(images)
    began, ended = threading.Event(), threading.Event()

    def calls() -> int:
        count = 0
        while not ended.is_set():
            np.testing.assert_allclose(bundle.predict(images), expected, atol=1e-5)
            count += 1
            began.set()
        return count

    with ThreadPoolExecutor(2) as pool:
        serving = [pool.submit(calls) for _ in range(2)]
        try:
            assert began.wait(60)
            bundle.prepare()
        finally:
            ended.set()
        assert all(one.result(60) > 0 for one in serving)
    assert bundle.runs.sizes == (1, 2, 4, 8)


def test_sizes_that_do_not_fit_the_memory_are_left_out(model: Path) -> None:
    class Small(StrictSession):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            if binding.inputs["images"].shape()[0] > 4:
                raise RuntimeError("CUDA failure 2: out of memory")
            super().run_with_iobinding(binding, options)

    bundle = stand_in(model, max_batch_size=32, open_session=Small)
    assert bundle.runs is not None
    assert bundle.runs.sizes == (1, 2, 4)
    assert len(bundle.predict(random_images(11))) == 11


def test_what_a_bundle_held_is_freed_on_the_device_s_thread(model: Path) -> None:
    thread = DeviceThread("stand-in")
    bundle = stand_in(model, thread=thread)
    bundle.prepare()
    session = weakref.ref(bundle.session)
    del bundle
    gc.collect()
    thread.call(lambda: None)
    thread.submit(lambda: None).wait()
    for _ in range(100):
        if session() is None:
            break
        thread.call(gc.collect)
    assert session() is None


@pytest.mark.parametrize(
    ("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("cpu", None)]
)
def test_devices_by_name(device: str, index: int | None) -> None:
    assert gpu_index(device) == index


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0,1", "CPU"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected auto, cpu, cuda or cuda:K"):
        gpu_index(device)


def test_a_process_with_page_locked_memory_exits_silently() -> None:
    code = (
        "import numpy as np; from limelens.serve.bundle.execution.prepared import pin; "
        "array = np.empty(1 << 20, np.uint8); pin(array); print('done')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_batches_of_the_cpu_leave_cuda_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_array: object) -> None:
        raise AssertionError("CUDA would start")

    monkeypatch.setattr(prepared, "pin", fail)
    bundle = load_bundle(model, "cpu", batches=True)
    bundle.prepare()
    images = random_images(3)
    found, expected = bundle.predict(images), load_bundle(model, "cpu").predict(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("tf32", [False, True])
def test_on_a_gpu_the_shipped_model_gives_the_cpu_s_numbers(tf32: bool) -> None:
    from limelens.cli.serving import default_models

    path = default_models() / "facemask" / "2"
    bundle, plain = load_bundle(path, "cuda", tf32=tf32), load_bundle(path, "cpu")
    assert bundle.runs is not None
    assert bundle.runs.no_graph_reason == ""
    for count in (1, 3, 17, 64, 100):
        images = random_images(count, 128)
        found = bundle.predict(images)
        np.testing.assert_allclose(found, plain.predict(images), atol=1e-2 if tf32 else 1e-4)


@needs_cuda
def test_on_a_gpu_a_seed_gives_the_same_explanation() -> None:
    from limelens.cli.serving import default_models
    from limelens.explain import explain

    path = default_models() / "facemask" / "2"
    bundle, plain = load_bundle(path, "cuda"), load_bundle(path, "cpu")
    image = random_images(1, 128)[0]
    first, again, expected = (
        explain(image, one.predict, seed=5) for one in (bundle, bundle, plain)
    )
    assert first.explanations == again.explanations
    for ours, theirs in zip(first.explanations, expected.explanations, strict=True):
        mine = {one.segment: one.weight for one in ours.weights}
        assert mine == pytest.approx({one.segment: one.weight for one in theirs.weights}, abs=1e-4)
