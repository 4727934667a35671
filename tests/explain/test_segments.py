"""How an image is cut into segments."""

import sys

import numpy as np
import pytest
from PIL import Image

from limelens.explain import Settings
from limelens.explain.segmentation import cutting
from limelens.explain.segmentation.segments import distinct

pytest.importorskip("skimage")


@pytest.mark.parametrize("target", [10, 40, 200])
@pytest.mark.parametrize("size", [(144, 144), (224, 160)])
def test_slic_that_clusters_once_gives_what_slic_gives(target: int, size: tuple[int, int]) -> None:
    from skimage.data import chelsea
    from skimage.segmentation import slic

    image = np.asarray(Image.fromarray(chelsea()).resize(size[::-1]))  # type: ignore[no-untyped-call]
    arguments = {"n_segments": target, "start_label": 0, "max_num_iter": 8, "min_size_factor": 0.25}
    melted = cutting.melting(image, arguments)
    for factor in (0.1, 0.25, 0.5, 0.8):
        expected = slic(image, **{**arguments, "min_size_factor": factor})
        np.testing.assert_array_equal(melted(factor), expected)


def test_slic_runs_as_a_whole_where_its_second_half_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from skimage.data import chelsea

    image = np.ascontiguousarray(chelsea()[:200, :200])  # type: ignore[no-untyped-call]
    expected = cutting.cut(image, Settings())
    monkeypatch.setitem(sys.modules, "skimage.segmentation._slic", None)
    np.testing.assert_array_equal(cutting.cut(image, Settings()).labels, expected.labels)


@pytest.mark.parametrize("low", [0, -3, 70_000])
def test_distinct_ids_are_those_that_numpy_finds(low: int) -> None:
    labels = low + np.random.default_rng(0).integers(0, 90, (40, 30)) ** 2
    ids, places = distinct(labels)
    expected_ids, expected = np.unique(labels, return_inverse=True)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(places, expected.reshape(labels.shape))
