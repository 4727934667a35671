"""Faces on the command line, with a real detector, by a model file and by a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.detectors import BLUE, GREEN, MAGENTA, PALE, RED, frame_of, save_detector

Run = Callable[..., Any]
SMALL, MIDDLE, LARGE = (40, 80, 40), (560, 0, 80), (320, 160, 160)
"""Places in a frame of 480x640 where the detector finds squares: left, top, side."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_detector(tmp_path_factory.mktemp("detector")))


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame with a red face, which is an alert, a green one, one that is unknown, a faint one."""
    path = tmp_path_factory.mktemp("frames") / "door.png"
    squares = [(*SMALL, RED), (*LARGE, GREEN), (*MIDDLE, MAGENTA), (560, 400, 80, PALE)]
    Image.fromarray(frame_of(squares)).save(path)
    return path


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame with nobody in it."""
    path = tmp_path_factory.mktemp("frames") / "hall.png"
    Image.fromarray(frame_of()).save(path)
    return path


@pytest.fixture(params=["file", "server"])
def asked(
    request: pytest.FixtureRequest,
    one_model: Path,
    start_server: Callable[..., Any],
    detector: str,
) -> tuple[str, ...]:
    """Options that ask a model file with a detector, or a server that has one."""
    if request.param == "file":
        model = one_model / "colours" / "1" / "model.onnx"
        return "--model", str(model), "--face-detector", detector
    return "--server", start_server(face_detector=detector).address


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_each_face_is_printed_with_its_place_and_the_worst_decides(
    limelens: Run, asked: tuple[str, ...], door: Path, hall: Path
) -> None:
    result = limelens("classify", door, hall, "--faces", *asked, "--threshold", 0.7)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{door}: red (alert)   3 faces"
    assert lines[1].startswith("  face 0  160x160 at 320,160  green   green 0.")
    assert lines[2] == "  face 1  80x80 at 560,0  unknown"
    assert lines[3].startswith("  face 2  40x40 at 40,80  red (alert)   red 0.")
    assert lines[4] == f"{hall}: no face"


def test_the_json_has_the_faces_and_without_faces_it_has_none(
    limelens: Run, asked: tuple[str, ...], door: Path, hall: Path
) -> None:
    found, nobody = limelens("classify", door, hall, "--faces", *asked, "--json").json
    assert (found["decision"], found["label"], found["alert"]) == ("label", "red", True)
    face = found["faces"][2]
    assert face["box_px"] == [40, 80, 80, 120]
    assert face["box"] == {
        "left": pytest.approx(40 / 640, abs=1e-6),
        "top": pytest.approx(80 / 480, abs=1e-6),
        "right": pytest.approx(80 / 640, abs=1e-6),
        "bottom": pytest.approx(120 / 480, abs=1e-6),
    }
    assert (face["label"], face["alert"], face["issue"]) == ("red", True, None)
    assert face["score"] > 0.9
    assert "person" not in face
    assert (nobody["decision"], nobody["label"], nobody["faces"]) == ("no_face", None, [])
    (whole,) = limelens("classify", door, *asked[:2], "--json").json
    assert "faces" not in whole


def test_least_size_score_and_number_of_faces_are_options(
    limelens: Run, asked: tuple[str, ...], door: Path
) -> None:
    def sizes(*options: object) -> list[int]:
        (found,) = limelens("classify", door, "--faces", *options, *asked, "--json").json
        return [right - left for left, _, right, _ in (f["box_px"] for f in found["faces"])]

    assert sizes() == [160, 80, 40]
    assert sizes("--min-face", 60) == [160, 80]
    assert sizes("--max-faces", 1) == [160]
    assert sizes("--face-threshold", 0.27) == [160, 80, 80, 40]


def test_boxes_and_decisions_are_drawn(
    limelens: Run, asked: tuple[str, ...], door: Path, hall: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "drawn.png"
    result = limelens("classify", door, "--faces", "--draw", drawn, *asked)
    assert f"Wrote {drawn}" in result.stdout
    assert pixels_of(drawn).shape == (480, 640, 3)
    assert not np.array_equal(pixels_of(drawn), pixels_of(door))
    folder = tmp_path / "all"
    result = limelens(
        "classify", door, hall, door, "--faces", "--save-drawn", folder, *asked, "--json"
    )
    assert len(result.json) == 3
    assert sorted(path.name for path in folder.iterdir()) == [
        "door-2.png", "door.png", "hall.png",
    ]  # fmt: skip
    assert np.array_equal(pixels_of(folder / "door.png"), pixels_of(drawn))
    assert np.array_equal(pixels_of(folder / "hall.png"), pixels_of(hall))


def test_faces_are_blurred_under_their_boxes(
    limelens: Run, asked: tuple[str, ...], tmp_path: Path
) -> None:
    # A face with a pattern that blurring removes, and one too small to be asked for.
    frame = frame_of([(*LARGE, GREEN), (*SMALL, BLUE)])
    frame[160:320:8, 320:480] = (0, 200, 0)
    door, plain, hidden = (tmp_path / name for name in ("door.png", "plain.png", "hidden.png"))
    Image.fromarray(frame).save(door)
    for drawn, more in ((plain, ()), (hidden, ("--blur-faces",))):
        result = limelens(
            "classify", door, "--faces", "--min-face", 100, "--draw", drawn, *more, *asked
        )
        assert result.exit_code == 0, result.stderr
        assert "1 face" in result.stdout
    inside = np.s_[200:300, 360:440, 1]
    assert pixels_of(plain)[inside].std() > 5
    assert pixels_of(hidden)[inside].std() < 2
    before, after = pixels_of(plain)[80:120, 40:80], pixels_of(hidden)[80:120, 40:80]
    assert np.all(before == BLUE)
    assert np.all(after[[0, -1], :, 2] < 200)  # its edges run into what is around it


def test_nothing_is_drawn_if_faces_cannot_be_found(
    limelens: Run, one_model: Path, door: Path, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    drawn = tmp_path / "drawn.png"
    for asked in (
        ("--server", start_server().address),
        ("--model", one_model / "colours" / "1", "--face-detector", tmp_path / "none.onnx"),
    ):
        result = limelens("classify", door, "--faces", "--draw", drawn, "--blur-faces", *asked)
        assert result.exit_code == 1
        several = limelens("classify", door, door, "--faces", *asked)
        assert several.stderr == result.stderr  # said once, not for each image
        assert len(result.stderr.splitlines()) == 1
        assert "face" in result.stderr or "none.onnx" in result.stderr
        assert not drawn.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-face", 40), "--min-face without faces to find; expected --faces too"),
        (("--draw", "x.png"), "--draw without faces to draw; expected --faces too"),
        (("--faces", "--blur-faces"), "--blur-faces without an image to write"),
        (("--faces", "--draw", "x.png", "--save-drawn", "y"), "expected only one of them"),
        (("second.png", "--faces", "--draw", "x.png"), "--draw is for one image"),
        (("--faces", "--max-faces", 21), "less than or equal to 20"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(
    limelens: Run, door: Path, options: tuple[object, ...], message: str
) -> None:
    result = limelens("classify", door, *options)
    assert result.exit_code == 2
    assert message in result.said


EXPLAIN = ("--num-segments", 4, "--num-samples", 20, "--seed", 1)


def test_the_worst_face_is_explained_or_the_one_that_was_named(
    limelens: Run, asked: tuple[str, ...], door: Path
) -> None:
    result = limelens("explain", door, "--faces", *EXPLAIN, *asked)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].startswith("face 40x40 at 40,80  red (alert)   red 0.")
    assert lines[2].startswith("red ")
    found = limelens("explain", door, "--faces", "--face", 0, *EXPLAIN, *asked, "--json").json
    assert found["face"]["box_px"] == [320, 160, 480, 320]
    assert found["explanations"][0]["label"] == "green"
    result = limelens("explain", door, "--faces", "--face", 9, *EXPLAIN, *asked)
    assert result.exit_code == 1
    assert "face: 9; expected 0 to 2" in result.stderr


def test_an_explanation_blurs_all_other_faces(
    limelens: Run, asked: tuple[str, ...], tmp_path: Path
) -> None:
    door, left, right = tmp_path / "door.png", (160, 160, 160), (480, 160, 160)
    Image.fromarray(frame_of([(*left, GREEN), (*right, RED)])).save(door)
    drawn = {}
    for name, options in (("plain", ()), ("hidden", ("--blur-faces",))):
        paths = [tmp_path / f"{name}-{kind}.png" for kind in ("out", "heat", "segments")]
        written = zip(("--out", "--heat-map", "--segments"), paths, strict=True)
        flags = [one for pair in written for one in pair]
        result = limelens("explain", door, "--faces", *flags, *options, *EXPLAIN, *asked)
        assert result.exit_code == 0, result.stderr
        drawn[name] = [np.asarray(Image.open(path)).astype(int) for path in paths]
    # The red face at the right is explained; nothing about it changes.
    for plain, hidden in zip(drawn["plain"][:2], drawn["hidden"][:2], strict=True):
        assert plain.shape == hidden.shape
        height, width = plain.shape[:2]
        middle = np.s_[height // 2 - 40 : height // 2 + 40]
        assert np.array_equal(plain[middle, -width // 6 :], hidden[middle, -width // 6 :])
        # The edges of the other one at the left are gone.
        sharp, soft = (
            np.abs(np.diff(one[middle, width // 5 : width // 3], axis=1)).max()
            for one in (plain, hidden)
        )
        assert soft < 0.5 * sharp
    assert np.array_equal(drawn["plain"][2], drawn["hidden"][2])


def test_a_report_explains_a_face_of_each_image_and_lists_those_without(
    limelens: Run, asked: tuple[str, ...], door: Path, hall: Path, tmp_path: Path
) -> None:
    page = tmp_path / "why.html"
    result = limelens(
        "explain", door, hall, "--faces", "--report", page, "--blur-faces", *EXPLAIN, *asked,
        "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    found, nobody = result.json
    assert (found["label"], found["face"]["label"]) == ("red", "red")
    assert "no face" in nobody["error"]
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2
    assert "no face" in text


def test_no_report_shows_faces_that_could_not_be_blurred(
    limelens: Run, one_model: Path, door: Path, tmp_path: Path
) -> None:
    page, overlay = tmp_path / "why.html", tmp_path / "why.png"
    asked = ("--model", one_model / "colours" / "1", "--face-detector", tmp_path / "none.onnx")
    for written in (("--report", page), ("--out", overlay)):
        result = limelens("explain", door, *written, "--blur-faces", *EXPLAIN, *asked)
        assert result.exit_code == 1
        assert "none.onnx" in result.stderr
    assert not page.exists()
    assert not overlay.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--face", 1), "--face without faces to find; expected --faces too"),
        (("--blur-faces",), "--blur-faces without an image to write; expected --out PNG too"),
        (("--blur-faces", "--steps", "x.png"), "--steps shows what the model sees"),
    ],
)
def test_options_of_an_explanation_that_do_not_fit_are_wrong_usage(
    limelens: Run, door: Path, options: tuple[object, ...], message: str
) -> None:
    result = limelens("explain", door, *options)
    assert result.exit_code == 2
    assert message in result.said


def test_evaluate_measures_a_bundle_on_faces(
    limelens: Run, one_model: Path, detector: str, door: Path, hall: Path, tmp_path: Path
) -> None:
    photographs = tmp_path / "photographs"
    for label, image in (("green", door), ("red", door), ("red", hall)):
        (photographs / label).mkdir(parents=True, exist_ok=True)
        (photographs / label / image.name).write_bytes(image.read_bytes())
    arguments = ("evaluate", one_model / "colours" / "1", photographs, "--face-detector", detector)
    result = limelens(*arguments, "--faces")
    assert result.exit_code == 0, result.stderr
    assert "The largest face of each photograph; in 1 image there was none, in 0 none" in (
        result.stdout
    )
    assert "50.00% of 2 images correct" in result.stdout
    assert "on more images probably 9% to 91%" in result.stdout.replace("\n", " ")
    found = limelens(*arguments, "--faces", "--which-face", "worst", "--json").json
    assert found["faces"]["which"] == "worst"
    assert found["faces"]["not_found"] == [str(photographs / "red" / hall.name)]
    wrong = limelens(*arguments, "--faces", "--report", tmp_path / "page.html")
    assert wrong.exit_code == 2


def test_bench_puts_the_load_of_faces_on_a_server(
    limelens: Run, start_server: Callable[..., Any], detector: str, door: Path
) -> None:
    load = ("--callers", 1, "--streams", 1, "--explainers", 1, "--num-samples", 20)
    result = limelens(
        "bench", door, "--server", start_server(face_detector=detector).address, *load, "--faces",
        "--skip-still", "--detect-every", 2, "--duration", 1.5, "--warmup", 0, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = result.json
    assert found["faces"]["detect_every"] == 2
    for kind in ("classify", "stream", "explain"):
        assert found[kind]["answered"] > 0, kind
        # Where a server falls behind, newer frames take the places of older ones.
        assert set(found[kind]["errors"]) <= ({"SUPERSEDED"} if kind == "stream" else set())
    without = limelens(
        "bench", door, "--server", start_server().address, "--faces", "--callers", 1,
        "--duration", 0.3, "--warmup", 0.1, "--json",
    ).json  # fmt: skip
    assert without["classify"]["answered"] == 0
    assert without["faces"] is not None


def test_a_sheet_of_similar_images_hides_faces(
    limelens: Run, asked: tuple[str, ...], door: Path, hall: Path, tmp_path: Path
) -> None:
    index, sheets = tmp_path / "doors.index", (tmp_path / "plain.png", tmp_path / "hidden.png")
    assert limelens("index", door.parent, "--out", index, *asked[:2]).exit_code == 0
    for sheet, options in zip(sheets, ((), ("--blur-faces",)), strict=True):
        result = limelens("similar", index, hall, "--sheet", sheet, *options, *asked)
        assert result.exit_code == 0, result.stderr
    plain, hidden = (pixels_of(sheet).astype(int) for sheet in sheets)
    # The nearest image, at the right, has a sharp green face in the middle.
    steps = [np.abs(np.diff(one[:, plain.shape[1] // 2 :, 1], axis=1)) for one in (plain, hidden)]
    assert (steps[0] > 100).sum() > (steps[1] > 100).sum() + 60


def test_no_sheet_shows_faces_that_could_not_be_blurred(
    limelens: Run, one_model: Path, door: Path, hall: Path, tmp_path: Path
) -> None:
    index, sheet = tmp_path / "doors.index", tmp_path / "sheet.png"
    model = ("--model", one_model / "colours" / "1" / "model.onnx")
    assert limelens("index", door.parent, "--out", index, *model).exit_code == 0
    missing = ("--face-detector", tmp_path / "none.onnx")
    result = limelens("similar", index, hall, "--sheet", sheet, "--blur-faces", *model, *missing)
    assert result.exit_code == 1
    assert not sheet.exists()
    result = limelens("similar", index, hall, "--blur-faces", *model)
    assert result.exit_code == 2
    assert "expected --sheet too" in result.stderr
