"""`limelens camera` with real videos against a real server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.waiting import PATIENCE_S

COMMAND = (sys.executable, "-m", "limelens.cli", "camera")
RED, GREEN, GREY = (255, 0, 0), (0, 255, 0), (99, 99, 99)
LASTING = ("--max-decision-age-s", "60")
"""No decision expires on a busy machine."""


def save_video(path: Path, colours: list[tuple[int, int, int]]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for colour in colours:
            pixels = np.full((32, 64, 3), colour, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """A second of nobody, one of an alert, two of an all-clear."""
    return save_video(tmp_path / "visit.mp4", [GREY] * 10 + [RED] * 10 + [GREEN] * 20)


@pytest.fixture
def address(start_server: Callable[..., Any]) -> str:
    found: str = start_server().address
    return found


def test_a_line_is_printed_for_each_change(
    limelens: Callable[..., Any], visit: Path, address: str
) -> None:
    result = limelens("camera", visit, "--server", address, "--window", 5, "--required-to-alert", 1)
    assert result.exit_code == 0
    assert result.stderr == ""
    first, second, summary = result.stdout.splitlines()
    assert first.endswith("  alert    frame 10 (1.000 s)  red (alert)")
    assert second.endswith("  clear    frame 22 (2.200 s)  green")
    assert summary == "40 frames, 2 changes, 0 skipped"


def test_json_is_one_document_at_the_end(
    limelens: Callable[..., Any], visit: Path, address: str
) -> None:
    found = limelens(
        "camera", visit, "--server", address, "--fps", 5, "--camera-id", "door", "--json"
    )
    assert found.exit_code == 0
    document = found.json
    assert (document["camera_id"], document["model"], document["version"]) == ("door", "colours", 1)
    assert document["num_frames"] == 20
    assert document["statuses"] == {"classified": 20}
    assert (document["dropped_frames"], document["skipped_frames"]) == (0, 0)
    assert (document["decision"], document["alert"]) == ("green", False)
    assert document["num_changes"] == 2
    assert [(one["label"], one["alert"], one["place"]) for one in document["changes"]] == [
        ("red", True, "1.000 s"), ("green", False, "2.000 s"),
    ]  # fmt: skip


def test_jsonl_is_a_line_for_each_answer(
    limelens: Callable[..., Any], visit: Path, address: str
) -> None:
    result = limelens(
        "camera", visit, "--server", address, "--jsonl", "--region", "0,0,0.5,1", "--fps", 2,
        "--threshold", 0.5,
    )  # fmt: skip
    told = [json.loads(line) for line in result.stdout.splitlines()]
    lines = [line for line in told if line["type"] == "frame"]
    assert [line["frame_id"] for line in lines] == list(range(8))
    assert [line["state"] for line in lines] == (["unknown"] * 2 + ["alert"] * 2 + ["clear"] * 4)
    assert [line["smoothed_label"] for line in lines] == [
        None, None, "red", "red", "green", "green", "green", "green",
    ]  # fmt: skip
    assert lines[2]["scores"][0]["label"] == "red"
    assert lines[2]["changed"]
    assert lines[2]["alert"]
    assert lines[0]["decision"] == "abstained"


def test_changes_are_explained_into_a_folder(
    limelens: Callable[..., Any], visit: Path, address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "why" / "door"
    result = limelens(
        "camera", visit, "--server", address, "--explain-on-change", folder, "--num-segments", 4,
        "--num-samples", 20, "--hide", "blur", "--jsonl", "--camera-id", "front door",
    )  # fmt: skip
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    reported = [line for line in lines if line["status"] == "explanation"]
    assert [line["explanation"]["label"] for line in reported] == ["red", "green"]
    assert reported[0]["explanation"]["explanations"][0]["label"] == "red"
    assert sorted(path.name for path in folder.iterdir()) == [
        "front_door-000010-red.png", "front_door-000020-green.png",
    ]  # fmt: skip
    assert reported[0]["explanation"]["overlay"] == str(folder / "front_door-000010-red.png")
    with Image.open(folder / "front_door-000010-red.png") as overlay:
        assert overlay.size == (64, 32)


def test_an_unwritable_overlay_is_reported_once_and_watching_continues(
    limelens: Callable[..., Any], visit: Path, address: str, tmp_path: Path
) -> None:
    folder = tmp_path / "why"
    # In the way of the overlays: folders of their names.
    for name in ("camera-000010-red.png", "camera-000020-green.png"):
        (folder / name / "in").mkdir(parents=True)
    result = limelens(
        "camera", visit, "--server", address, "--explain-on-change", folder,
        "--num-samples", 20, "--num-segments", 4, "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.json["num_frames"] == 40
    assert [one.get("overlay") for one in result.json["changes"]] == [None, None]
    assert result.stderr.count("going on without overlays") == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "camera-000010-red.png", "camera-000020-green.png",
    ]  # fmt: skip


def test_long_names_are_cut_in_file_names() -> None:
    from limelens.cli.camera.report import file_name

    assert file_name("front door/2") == "front_door_2"
    assert file_name("é" * 200) == "é" * 40
    assert len(file_name("漢字" * 100).encode()) <= 80


def test_overlays_of_alerts_only(
    limelens: Callable[..., Any], visit: Path, address: str, tmp_path: Path
) -> None:
    result = limelens(
        "camera", visit, "--server", address, "--explain-on-change", tmp_path / "why",
        "--alerts-only", "--num-samples", 20, "--num-segments", 4, "--json",
    )  # fmt: skip
    assert [one.get("overlay") for one in result.json["changes"]] == [
        str(tmp_path / "why" / "camera-000010-red.png"), None,
    ]  # fmt: skip
    assert result.json["explanations"] == {"explained": 1}


def test_a_broken_frame_is_reported_and_the_exit_code_is_1(
    limelens: Callable[..., Any], address: str, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    (tmp_path / "b.png").write_bytes(b"no image")
    result = limelens("camera", tmp_path, "--server", address)
    assert result.exit_code == 1
    assert "b.png" in result.stderr
    assert "not a supported image" in result.stderr
    assert "2 frames (1 invalid), 1 change" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "--jsonl"), "expected only one of them"),
        (("--window", 5, "--required", 2), "expected 3 to 5"),
        (("--window", 5, "--required-to-alert", 4), "at most --required, 3"),
        (("--region", "1,2"), "expected four fractions"),
        (("--hide", "paint"), "expected mean, blur, shuffle"),
        (("--heartbeat-s", 1), "expected --jsonl too"),
    ],
)
def test_impossible_options_are_wrong_usage(
    limelens: Callable[..., Any], visit: Path, tmp_path: Path, arguments: Any, message: str
) -> None:
    result = limelens("camera", visit, "--explain-on-change", tmp_path / "why", *arguments)
    assert result.exit_code == 2
    assert message in result.said


@pytest.mark.parametrize(
    "arguments",
    [("--alerts-only",), ("--hide", "mean"), ("--num-segments", 4), ("--num-samples", 20)],
)
def test_options_of_explanations_need_explain_on_change(
    limelens: Callable[..., Any], visit: Path, arguments: Any
) -> None:
    result = limelens("camera", visit, *arguments)
    assert result.exit_code == 2
    assert f"{arguments[0]} without explanations" in result.said


def test_the_right_to_classify_is_enough_to_watch(
    limelens: Callable[..., Any], visit: Path, start_server: Callable[..., Any], tokens: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "token").write_text(tokens.set("door", ["classify"]))
    server = start_server(access=tokens.access())
    result = limelens(
        "camera", visit, "--server", server.address, "--token-file", tmp_path / "token", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert (result.json["model"], result.json["statuses"]) == ("colours", {"classified": 40})


def test_a_missing_source_or_server_is_reported(
    limelens: Callable[..., Any], visit: Path, address: str
) -> None:
    result = limelens("camera", "nowhere.mp4", "--server", address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("limelens: nowhere.mp4: no such file")
    result = limelens("camera", visit, "--server", "127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("limelens: ")


@pytest.fixture
def endless() -> Iterator[int]:
    """The reading end of a pipe into which a camera films for ever."""
    reading, writing = os.pipe()
    over = threading.Event()

    def film() -> None:
        with (
            contextlib.suppress(OSError, av.FFmpegError),  # the reader is gone
            os.fdopen(writing, "wb", buffering=0) as pipe,
            av.open(pipe, "w", format="mpegts") as container,
        ):
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
            pixels = np.full((32, 64, 3), RED, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            while not over.wait(0.01):
                container.mux(stream.encode(frame))

    thread = threading.Thread(target=film, daemon=True)
    thread.start()
    yield reading
    over.set()
    os.close(reading)
    thread.join(PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_drains_the_stream(endless: int, address: str, number: int) -> None:
    process = subprocess.Popen(
        [*COMMAND, "-", "--server", address, "--newest-only", "--jsonl", *LASTING],
        stdin=endless,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    while sum(line["status"] == "classified" for line in lines) < 3:
        lines.append(json.loads(process.stdout.readline()))
    process.send_signal(number)
    rest, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert errors == ""
    lines += [json.loads(line) for line in rest.splitlines()]
    seen = [line for line in lines if line["status"] == "classified"]
    assert {line["smoothed_label"] for line in seen[1:]} == {"red"}
    # What was sent is answered: no number is missing.
    numbers = sorted(line["frame_id"] for line in lines if line["type"] == "frame")
    assert numbers == list(range(len(numbers)))
    assert (lines[-1]["type"], lines[-1]["state"], lines[-1]["reason"]) == (
        "state", "unknown", "off",
    )  # fmt: skip


def test_ctrl_c_is_exit_code_0_while_the_server_is_lost(
    endless: int, start_server: Callable[..., Any]
) -> None:
    server = start_server()
    process = subprocess.Popen(
        [*COMMAND, "-", "--server", server.address, "--newest-only", "--jsonl"],
        stdin=endless,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    while json.loads(process.stdout.readline())["type"] != "frame":
        pass
    server.stop()
    assert "trying again" in process.stderr.readline()
    host, _, port = server.address.rpartition(":")
    with socket.create_server((host, int(port))) as silent:
        silent.settimeout(PATIENCE_S)
        connection, _ = silent.accept()  # it tries again
        connection.close()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


def test_a_terminal_has_a_status_line(visit: Path, address: str) -> None:
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, visit, "--server", address],
        stdout=follower,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        try:
            read = os.read(leader, 4096)
        except OSError:  # the other end was closed
            break
        shown += read
    _, errors = process.communicate(timeout=PATIENCE_S)
    os.close(leader)
    assert process.returncode == 0, errors
    assert b"frames/s" in shown
    assert b"dropped" in shown
    assert b"40 frames, 2 changes" in shown
