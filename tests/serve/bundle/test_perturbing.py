"""Perturbed images made by the graph itself, on the CPU provider, against those made in numpy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.serve.stand_in import on_gpu, stand_in

from limelens.cli.serving import default_models
from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.perturbing import with_perturbation
from limelens.serve.bundle.loading import rows_of
from limelens.serve.errors import ModelOutputError

pytest.importorskip("skimage")

RowModel = Callable[..., NDArray[np.float32]]


class OnDevice:
    """Looks to `explain` like a bundle on CUDA, but runs on the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        self.num_prepared = 0
        there = stand_in(bundle.path)
        assert there.rows is not None
        rows = there.rows.get()
        assert rows is not None
        self.rows = rows
        self.batch_size = there.batch_size
        self.max_concurrency = there.max_concurrency
        self.whole = bundle.predict

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images) == 1:  # as it is, to choose the references
            return self.whole(images)
        raise AssertionError(f"{len(images)} images were made in numpy")

    def prepare_perturbed(self, *shared: Any) -> RowModel:
        self.num_prepared += 1
        return self.rows.prepare_rows(*shared)


@pytest.mark.parametrize("hide", ["mean", "blur", "shuffle", "references", (10, 20, 30)])
@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_the_graph_makes_the_images_that_numpy_makes(
    one_model: Path, hide: Any, sampling: Any
) -> None:
    from limelens.explain import UNSEEN, explain

    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    photo = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    segments = np.arange(32)[:, np.newaxis] // 8 * 4 + np.arange(32) // 8
    segments = np.where(np.arange(32) < 28, segments, UNSEEN)
    options: dict[str, Any] = {
        "segments": segments,
        "hide": hide,
        "sampling": sampling,
        "seed": 5,
        "num_samples": 101,
        "hidden_share": 0.5,
    }
    if hide == "references":
        shown = np.random.default_rng(4).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
        every = np.arange(len(bundle.labels))
        top = int(bundle.predict(photo[np.newaxis])[0].argmax())
        options["references"] = shown, np.full(16, every[every != top][0])
    there = OnDevice(bundle)
    found = explain(photo, there, **options)
    expected = explain(photo, bundle.predict, **options)
    assert there.num_prepared >= 1
    # The very same images: the runtime may add the same numbers up in another order, no more.
    np.testing.assert_allclose(
        found.samples.probabilities, expected.samples.probabilities, rtol=0, atol=1e-6
    )
    assert np.ptp(expected.samples.probabilities) > 0.01


def test_the_shipped_model_gives_the_same_explanation_from_rows() -> None:
    from skimage.data import astronaut

    from limelens.explain import explain
    from limelens.serve.image import fit

    bundle = load_bundle(default_models() / "facemask" / "2", "cpu")
    photo = fit(astronaut(), bundle.metadata.resize).pixels  # type: ignore[no-untyped-call]
    found = explain(photo, OnDevice(bundle), seed=5, num_samples=64)
    expected = explain(photo, bundle.predict, seed=5, num_samples=64)
    np.testing.assert_allclose(
        found.samples.probabilities, expected.samples.probabilities, rtol=0, atol=1e-5
    )


def test_on_the_cpu_images_are_made_outside(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    assert bundle.runs is None
    assert bundle.prepare_perturbed is None


@pytest.mark.parametrize("num_rows", [1, 2, 300])
@pytest.mark.parametrize("num_segments", [1, 63, 64, 600, 4096])
def test_rows_and_columns_are_padded_to_what_is_prepared(
    one_model: Path, num_rows: int, num_segments: int
) -> None:
    bundle = stand_in(one_model / "colours" / "1")
    assert bundle.prepare_perturbed is not None
    rng = np.random.default_rng(0)
    image, hidden = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    columns = rng.integers(0, num_segments + 1, (32, 32))
    visible = rng.random((num_rows, num_segments)) < 0.5
    found = bundle.prepare_perturbed(image, hidden, columns)(visible, None)
    shown = np.concatenate([visible, np.ones((num_rows, 1), bool)], axis=1)[:, columns]
    images = np.where(shown[..., np.newaxis], image, hidden)
    expected = load_bundle(bundle.path, "cpu").predict(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_explanations_that_alternate_do_not_get_each_other_s_images(one_model: Path) -> None:
    bundle = stand_in(one_model / "colours" / "1")
    assert bundle.prepare_perturbed is not None
    columns = np.zeros((32, 32), np.intp)
    models = {
        value: bundle.prepare_perturbed(
            np.full((32, 32, 3), value, np.uint8), np.zeros((32, 32, 3), np.uint8), columns
        )
        for value in (50, 200)
    }
    expected = {value: bundle.predict(np.full((1, 32, 32, 3), value, np.uint8)) for value in models}
    for value in (50, 200, 50, 50, 200):
        found = models[value](np.ones((1, 1), bool), None)
        np.testing.assert_allclose(found, expected[value], rtol=0, atol=1e-6)


def test_without_a_derived_graph_images_are_made_outside(
    one_model: Path, bundles: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    other = bundles.model(bundles.metadata())
    other.graph.initializer[3].CopyFrom(
        onnx.helper.make_tensor("gain", onnx.TensorProto.FLOAT, [], [-1.0])
    )
    device, _ = on_gpu(bundle.path.read_bytes(), bundle.input_size)
    device.runs.prepare_all([1])
    broken = replace(device, file=other.SerializeToString())
    assert rows_of(bundle.metadata, broken).get() is None
    assert "misses the golden vector" in caplog.text
    assert "made on the CPU" in caplog.text


def test_rows_are_opened_once_by_all_threads(one_model: Path) -> None:
    bundle = stand_in(one_model / "colours" / "1")
    assert bundle.rows is not None
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: bundle.rows and bundle.rows.get(), range(4)))
    assert found[0] is not None
    assert all(one is found[0] for one in found)


def test_an_explanation_waits_for_its_chunk_size(one_model: Path) -> None:
    bundle = stand_in(one_model / "colours" / "1", chunk=None)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: bundle.batch_size)
        assert not asked.done()
        assert bundle.prepare(24) == 24
        assert asked.result(60) == 24
    assert bundle.prepare(8) == 24


def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, bundles: Any) -> None:
    graph = bundles.graph(bundles.metadata().task)
    # The logarithm of a black image, times nothing: not a number there, harmless elsewhere.
    graph.node[-2].input[0] = "added"
    graph.node.insert(
        len(graph.node) - 2, onnx.helper.make_node("Log", ["embedding"], ["logarithm"])
    )
    graph.node.insert(
        len(graph.node) - 2, onnx.helper.make_node("Mul", ["logarithm", "zero"], ["nothing"])
    )
    graph.node.insert(
        len(graph.node) - 2, onnx.helper.make_node("Add", ["centred", "nothing"], ["added"])
    )
    graph.initializer.append(onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0]))
    path = tmp_path / "model.onnx"
    path.write_bytes(bundles.model(bundles.metadata(), graph).SerializeToString())
    prepare = stand_in(path).prepare_perturbed
    assert prepare is not None
    rows = prepare(
        np.full((32, 32, 3), 200, dtype=np.uint8),
        np.zeros((32, 32, 3), dtype=np.uint8),
        np.zeros((32, 32), dtype=np.intp),
    )
    assert np.isfinite(rows(np.array([[True]]), None)).all()
    with pytest.raises(ModelOutputError, match="not finite"):
        rows(np.array([[False]]), None)


def test_the_derived_graph_is_valid_and_keeps_the_weights(one_model: Path) -> None:
    data = (one_model / "colours" / "1" / "model.onnx").read_bytes()
    derived = onnx.load_model_from_string(with_perturbation(data, 32, 32))
    onnx.checker.check_model(derived)
    assert derived.graph.initializer == onnx.load_model_from_string(data).graph.initializer
    assert "images" not in [one.name for one in derived.graph.input]
