"""Drift as a real server shows it: its gauges while normal and then dark images are classified."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.observing.test_metrics import documented, exposed
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import LimelensError
from limelens.serve.rpc.server_config import DriftSettings
from limelens.serve.tools.similar import index_folder, save_index


def reddish(seed: int, brightness: float = 1.0, count: int = 30) -> list[np.ndarray]:
    whole = np.random.default_rng(seed).integers((200, 40, 40), (256, 100, 100), (count, 3))
    colours = whole * brightness + np.array((0, 40, 0)) * (1 - brightness)
    return [np.full((8, 8, 3), colour, np.uint8) for colour in colours.astype(np.uint8)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, one_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    for number, pixels in enumerate(reddish(1)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    path = tmp_path_factory.mktemp("index") / "colours.index"
    save_index(index_folder(local_client(one_model / "colours" / "1", "cpu"), folder).index, path)
    return path


def watching(index: Path, name: str = "", **settings: Any) -> DriftSettings:
    return DriftSettings(((name, index),), **{"every_s": 0.0, "window": 30, **settings})


def gauge(watched: Any, name: str) -> float:
    """The gauge of colours; NaN if there is none."""
    for family in text_string_to_metric_families(watched.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"limelens_drift_{name}" and sample.labels == {"model": "colours"}:
                return float(sample.value)
    return math.nan


def classify(client: Client, images: list[np.ndarray]) -> None:
    for one in images:
        client.classify([one])


def test_dark_images_raise_the_gauges_and_normal_ones_do_not(
    watch: Callable[..., Any], index: Path
) -> None:
    watched = watch(drift=watching(index))
    assert gauge(watched, "images") == 0
    assert math.isnan(gauge(watched, "detected"))
    assert 0 < gauge(watched, "reference_distance") < 0.05
    with Client(watched.address, max_attempts=1) as client:
        classify(client, reddish(2))
        until(lambda: gauge(watched, "images") == 30)
        assert gauge(watched, "detected") == 0
        assert gauge(watched, "distance_ks") < 0.4
        assert gauge(watched, "mix_change") == 0

        # Vectors are asked for to compare images, not to use the model.
        client.embed(reddish(3, 0.3))
        for one in reddish(3, 0.3):
            client.classify([one], embedding=True)
        classify(client, reddish(4, 0.3))
        until(lambda: gauge(watched, "detected") == 1)
        until(lambda: gauge(watched, "distance_ks") > 0.9)
        assert gauge(watched, "images") == 30  # the window holds no more
        assert gauge(watched, "distance") > gauge(watched, "reference_distance")
        assert gauge(watched, "confidence") < gauge(watched, "reference_confidence")
        assert gauge(watched, "confidence_ks") > 0.5


def test_the_table_of_metrics_has_the_gauges(watch: Callable[..., Any], index: Path) -> None:
    watched = watch(drift=watching(index))
    with Client(watched.address, max_attempts=1) as client:
        classify(client, reddish(2))
    until(lambda: gauge(watched, "images") == 30)
    found = {name: labels for name, labels in exposed(watched).items() if "drift" in name}
    assert found == {name: labels for name, labels in documented().items() if "drift" in name}
    assert len(found) == 9


def test_a_response_has_no_vector_that_nobody_asked_for(
    watch: Callable[..., Any], index: Path
) -> None:
    watched = watch(drift=watching(index))
    with Client(watched.address, max_attempts=1) as client:
        assert client.classify(reddish(2))[0].embedding == ()
    until(lambda: gauge(watched, "images") > 0)


def test_of_fast_images_few_are_looked_at(watch: Callable[..., Any], index: Path) -> None:
    watched = watch(drift=watching(index, every_s=1000.0))
    with Client(watched.address, max_attempts=1) as client:
        client.classify(reddish(2))
        until(lambda: gauge(watched, "images") >= 1)
        client.classify(reddish(3))
    assert gauge(watched, "images") <= 2  # threads that ask at once may get one each


def test_with_another_model_drift_is_unknown(
    watch: Callable[..., Any],
    index: Path,
    bundles: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundles.save(tmp_path, replace(bundles.metadata(), threshold=0.9), 2)
    with caplog.at_level(logging.WARNING):
        watched = watch(tmp_path, drift=watching(index))
        with Client(watched.address, max_attempts=1) as client:
            classify(client, reddish(2, count=3))
    assert math.isnan(gauge(watched, "detected"))
    assert math.isnan(gauge(watched, "reference_distance"))
    assert gauge(watched, "images") == 0
    (line,) = [one.message for one in caplog.records if "drift" in one.message]
    assert line.startswith("drift of colours is unknown")


def test_a_new_version_makes_drift_unknown_while_the_server_runs(
    watch: Callable[..., Any],
    index: Path,
    bundles: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundles.save(tmp_path, bundles.metadata(), 1)
    watched = watch(tmp_path, drift=watching(index), reload_s=0.05)
    with Client(watched.address, max_attempts=1) as client:
        classify(client, reddish(2))
        until(lambda: gauge(watched, "detected") == 0)
        bundles.save(tmp_path, replace(bundles.metadata(), threshold=0.9), 2)
        until(lambda: len(watched.server.repository.served) == 2)
        shutil.rmtree(tmp_path / "colours" / "1")
        until(lambda: math.isnan(gauge(watched, "detected")))
        classify(client, reddish(3, count=3))
    assert gauge(watched, "images") == 0
    assert [one.message for one in caplog.records if "drift of" in one.message] == [
        "drift of colours is unknown: the reference was made with another model than is served; "
        "make it again with limelens index"
    ]


def test_an_index_that_fits_no_model_keeps_the_server_from_starting(
    watch: Callable[..., Any], index: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no index")
    for settings, reason in (
        (watching(tmp_path / "missing"), "missing: No such file or directory; expected a file"),
        (watching(tmp_path / "text"), "text: not an index, or a damaged one"),
        (watching(index, "tags"), "an index of the model tags; served are colours"),
        (DriftSettings((("", index), ("colours", index))), "a second index of colours"),
    ):
        with pytest.raises(LimelensError, match="^--drift-reference .*" + reason):
            watch(drift=settings)
