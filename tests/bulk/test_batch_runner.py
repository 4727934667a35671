"""Batches on what stands in for a GPU (`tests.serve.stand_in`), and what fails in them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.bulk.collection import BAD, GOOD, read_images, rows_of, write_images
from tests.serve.stand_in import on_gpu

from limelens.bulk.batch_runner import BatchRunner
from limelens.bulk.classifying import classify_work
from limelens.bulk.embedding import embed_work
from limelens.bulk.explaining import explain_work
from limelens.bulk.work import BulkImage, WorkSpec
from limelens.serve.bundle import load_bundle, loading
from limelens.serve.bundle.execution.batch_sizes import MAX_BATCH_SIZE
from limelens.serve.client import ExplainArguments

FAST: ExplainArguments = {"num_samples": 60, "num_segments": 8}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[BulkImage]:
    return read_images(write_images(tmp_path_factory.mktemp("images")))


@pytest.fixture
def gpu_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the runs on what then stands in for the GPU."""
    sizes: list[int] = []

    def note(inputs: dict[str, NDArray[Any]]) -> None:
        sizes.append(len(next(iter(inputs.values()))))

    def stand_in(_ort: Any, data: bytes, size: tuple[int, int], _index: int, *, tf32: bool) -> Any:
        assert not tf32
        return on_gpu(data, size, on_run=note)

    monkeypatch.setattr(loading, "_on_gpu", stand_in)
    return sizes


@pytest.mark.parametrize(
    "make",
    [classify_work, embed_work, partial(explain_work, **FAST)],
    ids=["classify", "embed", "explain"],
)
def test_rows_are_the_same_on_a_gpu_in_prepared_batches(
    models: Path, images: list[BulkImage], gpu_runs: list[int], make: Any
) -> None:
    spec: WorkSpec = make(models / "colours" / "1", device="cuda")
    many = images * 4 if make in (classify_work, embed_work) else images[:6]
    on_cpu = rows_of(make(models / "colours" / "1", device="cpu"), many)
    work = spec.open(2)
    gpu_runs.clear()
    assert work.batch_size == (2 * 2 if len(many) == 6 else 4 * MAX_BATCH_SIZE)
    found = rows_of(spec, many)
    assert gpu_runs
    assert {row["provider"] for row in found} == {"CUDAExecutionProvider"}
    for row, other in zip(found, on_cpu, strict=True):
        for name in ("path", "decision", "error"):
            assert row[name] == other[name]
        assert dict(row["probabilities"] or ()) == pytest.approx(
            dict(other["probabilities"] or ()), abs=1e-5
        )
        if row.get("embedding"):
            assert row["embedding"] == pytest.approx(other["embedding"], abs=1e-5)
        for one, same in zip(
            row.get("explanations") or (), other.get("explanations") or (), strict=True
        ):
            assert one["score"] == pytest.approx(same["score"], abs=1e-3)


def test_a_run_that_fails_is_halved_until_what_fails_is_alone(
    models: Path, images: list[BulkImage]
) -> None:
    bundle = load_bundle(models / "colours" / "1", "cpu")
    sizes: list[int] = []

    def with_little_memory(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise MemoryError
        return iter(bundle.predict(pixels))

    found = BatchRunner(bundle, with_little_memory, num_threads=1)(images)
    assert sum(isinstance(one, Exception) for one in found) == BAD
    assert sum(size for size in sizes if size <= 2) == GOOD
    expected = BatchRunner(bundle, bundle.predict, num_threads=1)(images)
    for one, other in zip(found, expected, strict=True):
        if not isinstance(other, Exception):
            np.testing.assert_allclose(one, other, atol=1e-5)  # type: ignore[arg-type]
