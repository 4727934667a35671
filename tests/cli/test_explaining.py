"""`limelens explain`: of one image in every way, and of many."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
Run = Callable[..., Any]
FAST = ("--segmentation", "grid", "--num-segments", 6, "--num-samples", 100, "--seed", 5)


def halves(path: Path, colour: tuple[int, int, int]) -> Path:
    """An image whose left half has a colour and whose right half is dark."""
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return halves(tmp_path_factory.mktemp("images") / "red.png", (250, 0, 0))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Label folders; one image is filed wrongly, one file is no image."""
    folder = tmp_path / "photos"
    halves(folder / "red" / "a.png", (250, 0, 0))
    halves(folder / "red" / "filed wrongly.png", (0, 0, 250))
    halves(folder / "blue" / "b.png", (0, 0, 250))
    halves(folder / "blue" / "c <&> d.png", (0, 0, 240))
    (folder / "blue" / "page.jpg").write_text("<!doctype html><html></html>")
    return folder


@pytest.fixture
def model(one_model: Path) -> Path:
    return one_model / "colours" / "1"


@pytest.fixture(params=["file", "server"])
def asked(request: pytest.FixtureRequest, model: Path, start_server: Any) -> tuple[str, str]:
    """Options that ask a model file, or a server."""
    if request.param == "file":
        return "--model", str(model)
    return "--server", start_server().address


def test_a_file_that_is_no_image_is_named(
    limelens: Run, asked: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<!doctype html>")
    result = limelens("explain", page, *asked)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"limelens: {page}: not a supported image")


@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion", "rise"])
def test_every_method_finds_the_red_half(
    limelens: Run, asked: tuple[str, str], red: Path, method: str
) -> None:
    result = limelens(
        "explain", red, *asked, *FAST, "--method", method, "--hide", "000000", "--label", "red",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.json["method"] == method
    strongest = {one["segment"] for one in result.json["explanations"][0]["weights"][:2]}
    assert strongest <= {0, 1, 3, 4}


def test_pixels_can_be_shuffled_away(limelens: Run, asked: tuple[str, str], red: Path) -> None:
    result = limelens("explain", red, *asked, *FAST, "--hide", "shuffle", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["num_samples"] == 100


def test_a_contrast_explains_one_label_rather_than_another(
    limelens: Run, asked: tuple[str, str], red: Path
) -> None:
    result = limelens("explain", red, *asked, *FAST, "--contrast", "red,blue", "--json")
    assert result.exit_code == 0, result.stderr
    (one,) = result.json["explanations"]
    assert (one["label"], one["against"]) == ("red", "blue")
    shown = limelens("explain", red, *asked, *FAST, "--contrast", "red,blue", "--label", "red")
    assert "red rather than blue +0." in shown.stdout


def test_stability_is_capped_by_samples_and_by_time(
    limelens: Run, asked: tuple[str, str], red: Path
) -> None:
    ways = ("--segmentation", "grid", "--num-segments", 4, "--hide", "000000", "--json")
    stable = limelens("explain", red, *asked, *ways, "--stability", 0.5, "--max-samples", 4000).json
    assert stable["num_samples"] < 4000
    late = limelens("explain", red, *asked, *ways, "--num-samples", 10_000, "--deadline-ms", 1).json
    assert late["num_samples"] < 10_000
    assert "deadline of 1 ms passed" in " ".join(late["warnings"])


def on_a_terminal(*arguments: object) -> tuple[str, bytes]:
    """Stdout, and what a terminal at stderr was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        text=True,
    )
    os.close(theirs)
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    stdout, _ = process.communicate(timeout=60)
    reader.join(60)
    os.close(ours)
    assert process.returncode == 0
    return stdout, b"".join(seen)


def test_the_terminal_shows_stability_so_far_and_stdout_does_not(
    asked: tuple[str, str], red: Path, limelens: Run
) -> None:
    many = ("--segmentation", "grid", "--num-segments", 9, "--num-samples", 6000, "--seed", 2)
    stdout, seen = on_a_terminal("explain", red, *asked, *many, "--json")
    document = json.loads(stdout)
    assert re.search(rb"stability[^a-z]*\d\.\d\d", seen)
    assert b"/6000" in seen
    quiet = limelens("explain", red, *asked, *many, "--json")
    assert quiet.stderr == ""
    same = document.keys() - {"timings_ms"}
    assert {key: document[key] for key in same} == {key: quiet.json[key] for key in same}


def test_several_images_are_a_list_in_their_order(
    limelens: Run, asked: tuple[str, str], photos: Path, tmp_path: Path
) -> None:
    paths = [photos / "red" / "a.png", tmp_path / "gone.png", photos / "blue" / "b.png"]
    result = limelens("explain", *paths, *asked, *FAST, "--json")
    assert result.exit_code == 1
    first, second, third = result.json
    assert [one["path"] for one in result.json] == [str(path) for path in paths]
    assert (first["label"], third["label"]) == ("red", "blue")
    assert second == {"path": str(paths[1]), "error": "No such file or directory"}
    # The same result as for one image alone.
    alone = limelens("explain", paths[0], *asked, *FAST, "--json").json
    assert first["explanations"] == alone["explanations"]
    assert first["seed"] == 5


def test_a_folder_is_explained_and_unreadable_files_are_listed(
    limelens: Run, asked: tuple[str, str], photos: Path
) -> None:
    result = limelens("explain", photos, *asked, *FAST, "--json")
    assert result.exit_code == 1
    by_name = {Path(one["path"]).name: one for one in result.json}
    assert len(by_name) == 5
    assert "HTML" in by_name["page.jpg"]["error"]
    assert by_name["a.png"]["mistake"] is False
    assert by_name["filed wrongly.png"]["mistake"] is True
    assert by_name["filed wrongly.png"]["true_label"] == "red"
    shown = limelens("explain", photos, *asked, *FAST)
    assert "filed wrongly.png: blue (true: red)" in shown.stdout
    assert "page.jpg" in shown.stderr


def test_a_list_names_the_first_warning_of_each_image(
    limelens: Run, model: Path, photos: Path
) -> None:
    few = ("--segmentation", "grid", "--num-segments", 30, "--num-samples", 20, "--seed", 5)
    asked = ("explain", photos, "--model", model, "--device", "cpu", *few)
    lines = limelens(*asked).stdout.splitlines()
    warned = [one for one in limelens(*asked, "--json").json if one.get("warnings")]
    assert any(len(one["warnings"]) > 1 for one in warned)
    for one in warned:
        first, *others = one["warnings"]
        (line,) = (line for line in lines if line.startswith(f"{one['path']}:"))
        assert f"  warning: {first}" in line
        assert (f"(and {len(others)} more warning" in line) == bool(others)


class Page(HTMLParser):
    """The cards' names in their order, and where images come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.names: list[str] = []
        self._in_name = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.sources.append(given["src"] or "")
        self._in_name = tag == "div" and given.get("class") == "name"

    def handle_data(self, data: str) -> None:
        if self._in_name:
            self.names.append(data)
            self._in_name = False


def test_the_page_shows_mistakes_first_and_needs_nothing_else(
    limelens: Run, asked: tuple[str, str], photos: Path, tmp_path: Path
) -> None:
    written = tmp_path / "out.html"
    result = limelens("explain", photos, *asked, *FAST, "--report", written)
    assert result.exit_code == 1
    assert f"Wrote {written}" in result.stdout
    text = written.read_text()
    page = Page(text)
    assert page.names[0] == "red/filed wrongly.png"
    assert sorted(page.names[1:]) == ["blue/b.png", "blue/c <&> d.png", "red/a.png"]
    assert len(page.sources) == 8
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    assert "blue/page.jpg" in text
    assert "an HTML page" in text


def test_a_page_of_one_image_without_a_label_counts_no_mistakes(
    limelens: Run, model: Path, red: Path, tmp_path: Path
) -> None:
    written = tmp_path / "out.html"
    result = limelens("explain", red, "--model", model, *FAST, "--report", written, "--json")
    assert result.exit_code == 0
    assert result.json["label"] == "red"
    assert result.json["mistake"] is None
    assert "istakes" not in written.read_text()


def test_an_error_of_the_options_stops_all_images(
    limelens: Run, asked: tuple[str, str], photos: Path
) -> None:
    result = limelens("explain", photos, *asked, "--label", "pink", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "'pink'; expected one of red, green, blue" in result.stderr


def test_an_unwritable_page_is_reported_before_the_work(
    limelens: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    result = limelens(
        "explain", photos, "--model", model, "--report", tmp_path / "nowhere" / "out.html"
    )
    assert result.exit_code == 1
    assert "nowhere is no folder" in result.stderr


def test_steps_are_drawn_on_one_sheet(
    limelens: Run, model: Path, red: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "steps.png"
    result = limelens(
        "explain", red, "--model", model, *FAST, "--hide", "blur", "--steps", drawn, "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert result.json["num_samples"] == 100
    with Image.open(drawn) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 1360


def test_images_have_the_format_of_their_suffix(
    limelens: Run, model: Path, red: Path, tmp_path: Path
) -> None:
    kinds = {"why.jpg": "JPEG", "map.WEBP": "WEBP", "steps.jpeg": "JPEG", "ids": "PNG"}
    out, heat_map, steps, segments = (tmp_path / name for name in kinds)
    result = limelens(
        "explain", red, "--model", model, *FAST, "--out", out, "--heat-map", heat_map, "--steps",
        steps, "--segments", segments,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for name, kind in kinds.items():
        with Image.open(tmp_path / name) as drawn:
            drawn.load()
            assert drawn.format == kind, name


def test_a_check_is_compared_with_a_random_order(limelens: Run, model: Path, red: Path) -> None:
    ways = ("--segmentation", "grid", "--num-segments", 16, "--hide", "000000", "--seed", 1)
    result = limelens("explain", red, "--model", model, *ways, "--check", "--json")
    assert result.exit_code == 0, result.stderr
    (one,) = result.json["check"]
    assert one["label"] == "red"
    assert one["deletion_area"] < one["random_deletion_area"]
    assert one["insertion_area"] > one["random_insertion_area"]
    shown = limelens("explain", red, "--model", model, *ways, "--check").stdout
    assert "deletion 0." in shown
    assert "random order" in shown


@pytest.mark.parametrize("option", [("--steps", "x.png"), ("--check",)])
def test_a_server_cannot_check_or_draw_and_the_error_names_model(
    limelens: Run, start_server: Any, red: Path, option: tuple[str, ...]
) -> None:
    result = limelens("explain", red, "--server", start_server().address, *option)
    assert result.exit_code == 2
    assert "--model FILE" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--contrast", "red"),
        ("--contrast", "red,"),
        ("--contrast", "red,green,blue"),
        ("--method", "guess"),
        ("--deadline-ms", "-1"),
        ("{red}", "--out", "x.png"),
        ("{red}", "--steps", "x.png"),
        ("{red}", "--check"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    limelens: Run, model: Path, red: Path, arguments: tuple[str, ...]
) -> None:
    filled = [word.format(red=red) for word in arguments]
    result = limelens("explain", red, "--model", model, *filled)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["--out", "--heat-map", "--segments", "--steps"])
def test_an_unwritable_image_does_not_lose_the_explanation(
    limelens: Run, model: Path, red: Path, option: str
) -> None:
    asked = ("--model", model, "--device", "cpu", *FAST)
    result = limelens("explain", red, *asked, option, "/dev/full", "--json")
    assert result.exit_code == 1
    assert result.json["explanations"]
    assert result.stderr == "limelens: /dev/full: cannot be written: No space left on device\n"


def test_an_unwritable_page_does_not_lose_the_explanations(
    limelens: Run, model: Path, photos: Path
) -> None:
    asked = ("--model", model, "--device", "cpu", *FAST)
    result = limelens("explain", photos, *asked, "--report", "/dev/full", "--json")
    assert result.exit_code == 1
    assert len(result.json) == 5
    assert "/dev/full: cannot be written: No space left on device" in result.stderr


@pytest.mark.parametrize("command", ["classify", "explain"])
def test_a_full_disk_behind_stdout_is_named(model: Path, red: Path, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = run_command(command, model, red, stdout=full)
    assert result.returncode == 1
    assert result.stderr == "limelens: stdout: No space left on device\n"


@pytest.mark.parametrize("command", ["classify", "explain"])
def test_a_reader_that_left_is_no_error_to_report(model: Path, red: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        result = run_command(command, model, red, stdout=closed)
        assert result.stderr == ""


def run_command(
    command: str, model: Path, image: Path, stdout: IO[str]
) -> subprocess.CompletedProcess[str]:
    options = ["--num-samples", "50"] if command == "explain" else []
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "limelens.cli",
            command,
            image,
            "--model",
            model,
            "--json",
            *options,
        ],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
