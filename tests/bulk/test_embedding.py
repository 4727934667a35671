from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.bulk.collection import BAD, GOOD, read_images, rows_of, write_images

from limelens.bulk.classifying import classify_work
from limelens.bulk.embedding import embed_work
from limelens.bulk.work import BulkImage
from limelens.serve.client.in_process import local_client
from limelens.serve.image import Region

REGION = Region(0.25, 0.0, 0.75, 0.6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[BulkImage]:
    return read_images(write_images(tmp_path_factory.mktemp("images")))


@pytest.mark.parametrize(("region", "normalize"), [(None, False), (REGION, True)])
def test_vectors_are_those_of_a_client(
    models: Path, images: list[BulkImage], region: Region | None, normalize: bool
) -> None:
    path = models / "colours" / "1"
    rows = rows_of(embed_work(path, region=region, normalize=normalize), images)
    good = [(row, image) for row, image in zip(rows, images, strict=True) if not row["error"]]
    assert (len(good), len(rows)) == (GOOD, GOOD + BAD)
    assert all(row["embedding"] is None for row in rows if row["error"])
    with local_client(path) as client:
        data = [image.data for _, image in good if image.data is not None]
        expected = client.embed(data, region=region, normalize=normalize)
    found = np.array([row["embedding"] for row, _ in good])
    np.testing.assert_allclose(found, expected.vectors, atol=1e-5)
    assert {row["model_digest"] for row in rows} == {expected.model_digest}
    decided = rows_of(classify_work(path, region=region), images)
    for row, other in zip(rows, decided, strict=True):
        row.pop("embedding")
        probabilities = [dict(one.pop("probabilities") or ()) for one in (row, other)]
        assert row == other
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)


def test_the_fingerprint_changes_with_whatever_changes_rows(models: Path) -> None:
    model = models / "colours" / "1"
    specs = [
        embed_work(model),
        embed_work(model, normalize=True),
        embed_work(model, region=REGION),
        embed_work(models / "tags" / "1"),
    ]
    assert len({spec.fingerprint() for spec in specs}) == len(specs)
    assert pickle.loads(pickle.dumps(specs[2])) == specs[2]
