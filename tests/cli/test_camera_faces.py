"""`limelens camera --faces` on folders of frames, against a real server with a real detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.detectors import GREEN, RED, Square, frame_of, save_detector

Run = Callable[..., Any]
BLUE = (0, 70, 255)
"""A change from red to this is motion, which is looked for in green alone."""
LEFT, RIGHT = (160, 160, 160), (480, 160, 160)
"""Places in a frame of 480x640 where the detector finds squares: left, top, side."""


@pytest.fixture
def address(start_server: Callable[..., Any], tmp_path: Path) -> str:
    found: str = start_server(face_detector=str(save_detector(tmp_path / "detector"))).address
    return found


def save_frames(folder: Path, *frames: list[Square]) -> Path:
    folder.mkdir()
    for number, squares in enumerate(frames):
        Image.fromarray(frame_of(squares)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Nobody; a green person; beside them a red one; the red one turns blue."""
    green = (*LEFT, GREEN)
    return save_frames(
        tmp_path / "visit",
        *[[]] * 2,
        *[[green]] * 3,
        *[[green, (*RIGHT, RED)]] * 3,
        *[[green, (*RIGHT, BLUE)]] * 3,
    )


def test_a_line_is_printed_for_each_change_of_each_person(
    limelens: Run, visit: Path, address: str
) -> None:
    result = limelens("camera", visit, "--server", address, "--faces", "--window", 3)
    assert result.exit_code == 0, result.stderr
    lines = [line.split("  ", 1)[1] for line in result.stdout.splitlines()[:-1]]
    lines = [line.replace(f"{visit}/", "") for line in lines]
    assert lines == [
        "clear    frame 0 (000.png)  nobody",
        "unknown  frame 2 (002.png)  somebody: unknown",
        "clear    frame 3 (003.png)  person 1: green",
        "unknown  frame 5 (005.png)  somebody: unknown",
        "alert    frame 6 (006.png)  person 2: red (alert)",
        "clear    frame 9 (009.png)  person 2: blue",
        "clear    frame 9 (009.png)  everybody: green",
    ]
    assert result.stdout.splitlines()[-1].startswith("11 frames, ")


def test_json_has_the_people(limelens: Run, visit: Path, address: str) -> None:
    arguments = ("camera", visit, "--server", address, "--faces", "--window", 3)
    told = [json.loads(line) for line in limelens(*arguments, "--jsonl").stdout.splitlines()]
    lines = [line for line in told if line["type"] == "frame"]
    assert [line["state"] for line in lines[:4]] == ["clear", "clear", "unknown", "clear"]
    assert [line["smoothed_decision"] for line in lines[:4]] == [
        "no_face", "no_face", "abstained", "label",
    ]  # fmt: skip
    people = lines[6]["faces"]
    assert {one["person"]: one["smoothed_label"] for one in people} == {1: "green", 2: "red"}
    assert [one["changed"] for one in people if one["person"] == 2] == [True]
    document = limelens(*arguments, "--json").json
    told = [(one["person"], one["label"], one["alert"]) for one in document["changes"]]
    assert [one for one in told if one[0] is not None] == [
        (1, "green", False), (2, "red", True), (2, "blue", False),
    ]  # fmt: skip
    assert document["smoothed_decision"] == "label"


def test_nobody_is_told_apart_from_unknown_without_faces(
    limelens: Run, visit: Path, address: str
) -> None:
    document = limelens("camera", visit, "--server", address, "--threshold", 0.9, "--json").json
    assert document["smoothed_decision"] == "abstained"
    assert all(change["person"] is None for change in document["changes"])


def test_each_change_is_explained_for_its_person_with_the_others_blurred(
    limelens: Run, address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "why"
    frames = save_frames(tmp_path / "two", [(*LEFT, GREEN), (*RIGHT, RED)])
    arguments = (
        "camera", frames, "--server", address, "--faces", "--explain-on-change", folder,
        "--num-segments", 4, "--num-samples", 20,
    )  # fmt: skip

    def written() -> dict[str, np.ndarray]:
        found = {}
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                found[path.name] = np.asarray(image.convert("RGB")).astype(int)
            path.unlink()
        return found

    result = limelens(*arguments)
    assert result.exit_code == 0, result.stderr
    plain = written()
    assert list(plain) == [
        "camera-000000-person_1-green.png", "camera-000000-person_2-red.png",
    ]  # fmt: skip
    assert "why person 1 is green: " in result.stdout
    result = limelens(*arguments, "--blur-faces")
    assert result.exit_code == 0, result.stderr
    hidden = written()
    assert list(hidden) == list(plain)
    for name, own, other in zip(plain, (160, 480), (480, 160), strict=True):
        # The overlay is dim where the model did not look; edges of a face can still be seen there.
        edge = np.s_[160:320, other - 8 : other + 8]
        sharp = np.abs(np.diff(plain[name][edge], axis=1)).max()
        assert sharp > 8
        assert np.abs(np.diff(hidden[name][edge], axis=1)).max() < 0.5 * sharp
        inside = hidden[name][170:310, own + 10 : own + 150]
        assert np.abs(inside - np.median(inside, axis=(0, 1))).mean() < 60
        assert np.abs(np.diff(hidden[name][160:320, own - 2 : own + 2], axis=1)).max() > 30


def test_people_of_a_file_are_followed_in_its_own_time(
    limelens: Run, address: str, tmp_path: Path
) -> None:
    """However long explanations hold the frames up, and however fast the others are sent."""
    green, red = (*LEFT, GREEN), (*RIGHT, RED)
    frames = save_frames(
        tmp_path / "walk",
        *[[(left, 160, 160, RED)] for left in (0, 160, 320)],
        *[[green, red]],
        *[[green]] * 12,
    )
    result = limelens(
        "camera", frames, "--server", address, "--faces", "--jsonl", "--explain-on-change",
        tmp_path / "why", "--num-segments", 4, "--num-samples", 2000, "--max-unseen-s", 1,
    )  # fmt: skip
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    people = [{one["person"] for one in line["faces"]} for line in lines if "faces" in line]
    assert people[:4] == [{1}, {1}, {1}, {1, 2}]
    # Images of a folder are 0.2 s apart: after one second the other one is gone.
    assert people[8:10] == [{1, 2}, {2}]
    assert people[-1] == {2}


def test_without_a_detector_nothing_is_watched_and_nothing_written(
    limelens: Run, visit: Path, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server().address
    folder = tmp_path / "why"
    for options in (("--faces",), ("--explain-on-change", folder, "--blur-faces")):
        result = limelens("camera", visit, "--server", server, *options)
        assert result.exit_code == 1
        assert "face" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""
    assert list(folder.iterdir()) == []


def test_options_of_people_need_faces(limelens: Run, visit: Path) -> None:
    result = limelens("camera", visit, "--detect-every", 2, "--skip-still")
    assert result.exit_code == 2
    assert "--detect-every, --skip-still without faces" in " ".join(result.stderr.split())
    result = limelens("camera", visit, "--faces", "--blur-faces")
    assert result.exit_code == 2
    assert "--blur-faces without explanations" in " ".join(result.stderr.split())


def test_still_frames_and_frames_between_change_nothing(
    limelens: Run, visit: Path, address: str
) -> None:
    arguments = ("camera", visit, "--server", address, "--faces", "--jsonl")
    usual, spared, between = (
        [
            told
            for line in limelens(*arguments, *options).stdout.splitlines()
            if (told := json.loads(line))["type"] == "frame"
        ]
        for options in ((), ("--skip-still", "--max-unseen-s", 5), ("--detect-every", 3))
    )
    assert [one["status"] for one in usual] == ["classified"] * 11
    assert [one["smoothed_label"] for one in spared] == [one["smoothed_label"] for one in usual]
    # Of three frames that are alike, the first two are not looked through.
    assert [one["smoothed_label"] for one in between] != [one["smoothed_label"] for one in usual]
    assert {one["smoothed_label"] for one in between} >= {None, "green"}
