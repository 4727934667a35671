from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.bulk.collection import BAD, GOOD, answers, read_images, rows_of, write_images
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, RED, frame_of, save_detector

from limelens.bulk.explaining import explain_work
from limelens.bulk.work import BulkImage
from limelens.serve.bundle.explain_defaults import ExplainDefaults
from limelens.serve.client import ExplainArguments
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import InvalidRequestError
from limelens.serve.image import ResizeMode, ResizeRule

FAST: ExplainArguments = {"num_samples": 60, "num_segments": 8}
OPTIONS = ("--num-samples", 60, "--num-segments", 8, "--seed", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def model(models: Path) -> Path:
    return models / "colours" / "1"


def half_red(size: tuple[int, int] = (40, 80)) -> BulkImage:
    pixels = np.full((*size, 3), 60, np.uint8)
    pixels[:, size[1] // 2 :, 0] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return BulkImage("half.png", file.getvalue())


def check_equal(row: Any, one: Any) -> None:
    """A row against the document of `limelens explain --json`."""
    same = (
        "decision", "label", "labels", "method", "num_segments", "num_samples", "seed", "warnings",
        "settings_from_model", "model", "version", "provider",
    )  # fmt: skip
    assert {key: row[key] for key in same} == {key: one[key] for key in same}
    assert json.loads(row["settings"]) == one["settings"]
    for ours, theirs in zip(row["explanations"], one["explanations"], strict=True):
        assert (ours["label"], ours["against"]) == (theirs["label"], theirs["against"])
        for name in ("probability", "baseline", "intercept", "local_prediction", "stability"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
        weights = {weight["segment"]: weight for weight in ours["weights"]}
        assert len(weights) == len(theirs["weights"])
        for weight in theirs["weights"]:
            assert weights[weight["segment"]] == pytest.approx(weight, abs=1e-4)


def test_rows_say_what_explain_says_of_the_same_files(model: Path, folder: Path) -> None:
    rows = rows_of(explain_work(model, **FAST), read_images(folder))
    expected = answers("explain", folder, "--model", model, *OPTIONS)
    assert [row["path"] for row in rows] == [one["path"] for one in expected]
    assert [row["error"] for row in rows] == [one.get("error") for one in expected]
    good = [pair for pair in zip(rows, expected, strict=True) if not pair[0]["error"]]
    assert (len(good), len(rows)) == (GOOD, GOOD + BAD)
    for row, one in good:
        check_equal(row, one)
        assert len(row["segments"]) == row["num_segments"]
        assert sum(segment["share"] for segment in row["segments"]) == pytest.approx(1, abs=1e-5)


def test_an_explanation_is_the_same_whoever_makes_it(model: Path, folder: Path) -> None:
    spec, images = explain_work(model, **FAST), read_images(folder)[:6]
    together = rows_of(spec, images, num_threads=3)
    assert together == rows_of(pickle.loads(pickle.dumps(spec)), images, num_threads=1)
    assert together == [row for image in images for row in rows_of(spec, [image])]


def test_drawings_and_contrasts_are_columns_on_request(model: Path) -> None:
    image = half_red()
    arguments: ExplainArguments = {
        **FAST,
        "contrasts": [("red", "blue")],
        "top_labels": 1,
        "renderings": ("overlay", "segments", "heat_map"),
    }
    spec = explain_work(model, **arguments)
    (row,) = rows_of(spec, [image])
    with local_client(model) as client:
        expected = client.explain(image.data or b"", **spec.arguments)
    assert row["segments_png"] == expected.segments_png
    assert [one["against"] for one in row["explanations"]] == [None, "blue"]
    for ours, theirs in zip(row["explanations"], expected.explanations, strict=True):
        assert ours["overlay_png"] == theirs.overlay_png
        assert ours["heat_map_png"] == theirs.heat_map_png
    plain = explain_work(model, **FAST)
    (row,) = rows_of(plain, [image])
    assert "segments_png" not in row
    assert "overlay_png" not in row["explanations"][0]


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_segments_are_placed_in_the_upright_image(
    tmp_path: Path, bundles: BundleMaker, mode: ResizeMode
) -> None:
    metadata = bundles.metadata()
    rule = ResizeRule(metadata.resize.height, metadata.resize.width, mode)
    path = bundles.save(tmp_path, replace(metadata, resize=rule))
    spec = explain_work(path, num_samples=60, num_segments=8, renderings=("segments",))
    (row,) = rows_of(spec, [half_red((320, 640))])
    with Image.open(io.BytesIO(row["segments_png"])) as png:
        ids = np.asarray(png)
    assert {segment["segment"] for segment in row["segments"]} == {*ids[ids < 65535].tolist()}
    for segment in row["segments"]:
        rows, columns = np.nonzero(ids == segment["segment"])
        found = [segment["box"][edge] for edge in ("left", "top", "right", "bottom")]
        expected = [
            columns.min() / 640, rows.min() / 320, (columns.max() + 1) / 640, (rows.max() + 1) / 320
        ]  # fmt: skip
        assert found == pytest.approx(expected, abs=0.002)
        assert segment["share"] == pytest.approx(len(rows) / (ids < 65535).sum(), abs=0.01)


def test_the_worst_face_is_explained_and_a_frame_without_one_has_an_error(
    model: Path, tmp_path: Path
) -> None:
    detector = str(save_detector(tmp_path))
    squares = [(40, 80, 40, BLUE), (320, 160, 160, GREEN), (0, 320, 80, RED)]
    Image.fromarray(frame_of(squares)).save(tmp_path / "hall.png")
    Image.fromarray(frame_of()).save(tmp_path / "nobody.png")
    arguments: ExplainArguments = {**FAST, "faces": True}
    spec = explain_work(model, face_detector=detector, **arguments)
    hall, nobody = rows_of(spec, read_images(tmp_path))
    asked = ("--model", model, "--faces", "--face-detector", detector, *OPTIONS)
    expected = answers("explain", tmp_path, *asked)
    assert nobody["error"] == expected[1]["error"]
    assert nobody["error_code"] == "INVALID_REQUEST"
    check_equal(hall, expected[0])
    assert hall["label"] == "red"
    assert hall["face"]["box"] == pytest.approx(expected[0]["face"]["box"])
    assert hall["face"]["box_px"] == [0, 320, 80, 400]
    for segment in hall["segments"]:  # the model sees a margin around the face
        assert segment["box"]["right"] <= 0.2
        assert segment["box"]["top"] >= 0.6


def test_the_fingerprint_changes_with_whatever_changes_rows(
    model: Path, tmp_path: Path, bundles: BundleMaker
) -> None:
    own = replace(bundles.metadata(), explain=ExplainDefaults(num_segments=20))
    specs = [
        explain_work(model),
        explain_work(bundles.save(tmp_path, own)),
        explain_work(model, seed=1),
        explain_work(model, num_samples=500),
        explain_work(model, renderings=("overlay",)),
        explain_work(model, renderings=("overlay",), palette="blue_orange"),
        explain_work(model, labels=["red"]),
        explain_work(model, hide=(0, 0, 0)),
        explain_work(model, faces=True, face_detector=str(save_detector(tmp_path))),
    ]
    assert len({spec.fingerprint() for spec in specs}) == len(specs)
    assert explain_work(model, seed=0).fingerprint() == specs[0].fingerprint()


def test_wrong_arguments_are_refused_before_anything_runs(model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="'pink'; expected one of red, green, blue"):
        explain_work(model, labels=["pink"])
    with pytest.raises(InvalidRequestError, match="num_samples"):
        explain_work(model, num_samples=10**9)
    with pytest.raises(InvalidRequestError, match="face"):
        explain_work(model, face=2)
    with pytest.raises(InvalidRequestError, match="deadline_ms: given; expected none: rows would"):
        explain_work(model, deadline_ms=100)
    with pytest.raises(TypeError, match="did you mean 'num_samples'"):
        explain_work(model, num_sample=100)  # type: ignore[call-arg]
