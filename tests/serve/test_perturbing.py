"""Perturbed pictures made by the graph itself, on the CPU provider, against those made in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from limelens.cli.serving import default_models
from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.perturbing import open_perturbing, with_perturbation
from limelens.serve.errors import BundleError, ModelOutputError

pytest.importorskip("skimage")

RowModel = Callable[..., NDArray[np.float32]]


class OnDevice:
    """A bundle as one on CUDA presents itself to `explain`, but on the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        self.num_prepared = 0
        self._perturbing = open_perturbing(bundle, bundle.path.read_bytes())

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(images)} pictures were made in numpy")

    def prepare_perturbed(self, *shared: Any) -> RowModel:
        self.num_prepared += 1
        return self._perturbing.prepare(*shared)


@pytest.mark.parametrize("hide", ["mean", "blur", "shuffle", (10, 20, 30)])
@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_the_graph_makes_the_pictures_that_numpy_makes(
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
    }
    there = OnDevice(bundle)
    found = explain(photo, there, **options)
    expected = explain(photo, bundle.predict, **options)
    assert there.num_prepared == 1
    # The very same pictures: the runtime may add the same numbers up in another order, no more.
    np.testing.assert_allclose(
        found.samples.probabilities, expected.samples.probabilities, rtol=0, atol=1e-6
    )
    assert np.ptp(expected.samples.probabilities) > 0.01


def test_the_shipped_model_gives_the_same_explanation_from_rows() -> None:
    from skimage.data import astronaut

    from limelens.explain import explain
    from limelens.serve.image import fit

    bundle = load_bundle(default_models() / "facemask" / "1", "cpu")
    photo = fit(astronaut(), bundle.metadata.resize).pixels  # type: ignore[no-untyped-call]
    found = explain(photo, OnDevice(bundle), seed=5, num_samples=64)
    expected = explain(photo, bundle.predict, seed=5, num_samples=64)
    np.testing.assert_allclose(
        found.samples.probabilities, expected.samples.probabilities, rtol=0, atol=1e-5
    )


def test_on_the_cpu_pictures_are_made_outside_and_the_file_is_not_kept(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    assert bundle.file == b""
    assert bundle.prepare_perturbed is None


def test_a_bundle_that_keeps_its_file_makes_the_pictures(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    kept = replace(bundle, file=bundle.path.read_bytes())
    assert kept.prepare_perturbed is not None
    picture = np.full((32, 32, 3), 200, dtype=np.uint8)
    rows = kept.prepare_perturbed(picture, picture // 2, np.zeros((32, 32), dtype=np.intp))
    found = rows(np.array([[True], [False]]), None)
    expected = bundle.predict(np.stack([picture, picture // 2]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_graph_that_cannot_be_derived_is_said_and_pictures_are_made_outside(
    one_model: Path, bundles: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    other = bundles.model(bundles.metadata())
    other.graph.initializer[3].CopyFrom(
        onnx.helper.make_tensor("gain", onnx.TensorProto.FLOAT, [], [-1.0])
    )
    with pytest.raises(BundleError, match="misses the golden vector"):
        open_perturbing(bundle, other.SerializeToString())
    assert replace(bundle, file=other.SerializeToString()).prepare_perturbed is None
    assert "made on the CPU" in caplog.text


def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, bundles: Any) -> None:
    graph = bundles.graph(bundles.metadata().task)
    # The logarithm of a black picture, times nothing: not a number there, harmless elsewhere.
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
    bundle = load_bundle(path, "cpu")
    rows = open_perturbing(bundle, path.read_bytes()).prepare(
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
