from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose left half is red and whose right half is dark."""
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0] = 250
    path = tmp_path_factory.mktemp("images") / "red.png"
    Image.fromarray(pixels).save(path)
    return path


def test_classify_prints_the_documented_json(
    limelens: Run, asked: tuple[str, str], red: Path
) -> None:
    result = limelens("classify", red, *asked, "--region", "0,0,0.5,1", "--json")
    assert result.exit_code == 0
    (answer,) = result.json
    assert answer["path"] == str(red)
    assert answer["decision"] == "label"
    assert answer["label"] == "red"
    assert answer["labels"] == []
    assert answer["alert"] is True
    assert [score["label"] for score in answer["scores"]] == ["red", "green", "blue"]
    assert sum(score["probability"] for score in answer["scores"]) == pytest.approx(1, abs=1e-5)
    assert (answer["model"], answer["version"]) == ("colours", 1)
    assert answer["provider"] == "CPUExecutionProvider"


def test_a_file_and_a_server_print_the_same(
    limelens: Run, one_model: Path, start_server: Callable[..., Any], red: Path
) -> None:
    model = one_model / "colours" / "1" / "model.onnx"
    for command in (("classify", red), ("explain", red, "--seed", 3, "--num-samples", 200)):
        ours = limelens(*command, "--model", model, "--json").json
        theirs = limelens(*command, "--server", start_server().address, "--json").json
        if command[0] == "explain":
            ours.pop("timings_ms")
            theirs.pop("timings_ms")
        assert ours == theirs


def test_a_name_goes_to_the_default_server_and_a_file_does_not(
    limelens: Run, red: Path, monkeypatch: pytest.MonkeyPatch, start_server: Callable[..., Any]
) -> None:
    address = start_server().address
    monkeypatch.setattr("limelens.cli.classifying.DEFAULT_SERVER", address)
    assert limelens("classify", red, "--model", "colours", "--json").exit_code == 0
    assert limelens("classify", red, "--json").exit_code == 0
    missing = limelens("classify", red, "--model", "elsewhere/model.onnx", "--json")
    assert "elsewhere/model.onnx: No such file" in missing.stderr


def test_json_is_ascii_for_any_file_name(
    limelens: Run, one_model: Path, red: Path, tmp_path: Path
) -> None:
    image = tmp_path / "口罩 face.png"
    image.write_bytes(red.read_bytes())
    result = limelens("classify", image, "--model", one_model / "colours" / "1", "--json")
    assert result.stdout.isascii()
    assert result.json[0]["path"] == str(image)


def test_abstaining_has_no_label(limelens: Run, asked: tuple[str, str], red: Path) -> None:
    (answer,) = limelens("classify", red, *asked, "--threshold", 0.999, "--json").json
    assert answer["decision"] == "abstained"
    assert answer["label"] is None
    assert answer["alert"] is False


def test_a_broken_image_does_not_stop_the_others(
    limelens: Run, asked: tuple[str, str], red: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<!doctype html><html></html>")
    result = limelens("classify", page, red, tmp_path / "missing.jpg", *asked, "--json")
    assert result.exit_code == 1
    first, second, third = result.json
    assert "HTML" in first["error"]
    assert second["label"] == "red"
    assert third["error"] == "No such file or directory"


def test_a_folder_stands_for_its_images(
    limelens: Run, asked: tuple[str, str], red: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for name in ("b.png", "doors/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(red.read_bytes())
    (folder / "doors" / "notes.txt").write_text("no image")
    (folder / "page.jpg").write_text("<!doctype html><html></html>")
    result = limelens("classify", red, folder, *asked, "--json")
    assert result.exit_code == 1
    paths = [answer["path"] for answer in result.json]
    assert paths == [
        str(path) for path in (red, folder / "b.png", folder / "doors/a.png", folder / "page.jpg")
    ]
    assert [answer.get("label") for answer in result.json] == ["red", "red", "red", None]
    assert "1 file not read as images, such as doors/notes.txt" in result.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    result = limelens("classify", empty, *asked)
    assert result.exit_code == 1
    assert "empty holds no images" in result.stderr


def test_odd_images_print_only_results(one_model: Path, data_folder: Path) -> None:
    folder = data_folder / "badimages"
    model = one_model / "colours" / "1" / "model.onnx"
    command = [sys.executable, "-m", "limelens.cli", "classify", str(folder)]
    result = subprocess.run(
        [*command, "--model", str(model)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1
    for line in (*result.stdout.splitlines(), *result.stderr.splitlines()):
        assert line.startswith(str(folder))


@pytest.mark.parametrize("command", ["classify", "explain", "similar"])
def test_an_image_may_come_on_standard_input(
    one_model: Path, red: Path, tmp_path: Path, command: str
) -> None:
    arguments = [command, "-", "--model", str(one_model / "colours" / "1" / "model.onnx"), "--json"]
    if command == "similar":
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "red.png").write_bytes(red.read_bytes())
        index = [sys.executable, "-m", "limelens.cli", "index", str(tmp_path / "in")]
        index += [*arguments[2:], "--out", str(tmp_path / "i")]
        subprocess.run(index, check=True, capture_output=True)
        arguments.insert(1, str(tmp_path / "i"))
    with red.open("rb") as file:
        found = subprocess.run(
            [sys.executable, "-m", "limelens.cli", *arguments],
            stdin=file, capture_output=True, check=True, timeout=120,
        )  # fmt: skip
    document = json.loads(found.stdout)
    answer = document if command == "explain" else document[0]
    assert answer["path"] == "-"
    assert "error" not in answer


def test_standard_input_is_read_once(limelens: Run) -> None:
    assert limelens("classify", "-", "-").exit_code == 2
    assert limelens("explain", "-", "x.png").exit_code == 2


def test_an_image_over_the_servers_limit_does_not_stop_the_others(
    limelens: Run, start_server: Callable[..., Any], red: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(red.read_bytes() + bytes(2 * 10**6))
    server = start_server(max_message_bytes=10**6).address
    result = limelens("classify", red, large, red, "--server", server, "--json")
    assert result.exit_code == 1
    first, second, third = result.json
    assert first["label"] == third["label"]
    assert "the limit is 1,000,000" in second["error"]
    assert "label" not in second


def test_explain_prints_the_documented_json(
    limelens: Run, asked: tuple[str, str], red: Path
) -> None:
    result = limelens(
        "explain", red, *asked, "--segmentation", "grid", "--num-segments", 6,
        "--num-samples", 300, "--label", "red", "--seed", 5, "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    document = result.json
    assert {"path", "model", "version", "provider", "num_segments", "num_samples", "seed"} <= {
        *document
    }
    assert document["seed"] == 5
    assert document["num_samples"] == 300
    (explanation,) = document["explanations"]
    assert explanation["label"] == "red"
    assert {
        "probability", "baseline", "intercept", "local_prediction", "score", "stability", "weights"
    } <= {*explanation}  # fmt: skip
    assert len(explanation["weights"]) == document["num_segments"]
    assert {*explanation["weights"][0]} == {"segment", "weight", "std_error"}
    assert {*document["timings_ms"]} == {"segment", "predict", "fit", "total"}


def test_the_red_half_speaks_for_red(
    limelens: Run, one_model: Path, red: Path, tmp_path: Path
) -> None:
    halves = np.zeros((48, 64), dtype=np.uint16)
    halves[:, 32:] = 7
    Image.fromarray(halves).save(tmp_path / "halves.png")
    result = limelens(
        "explain", red, "--model", one_model / "colours" / "1", "--label", "red",
        "--segments-in", tmp_path / "halves.png", "--hide", "000000",
        "--out", tmp_path / "overlay.png", "--segments", tmp_path / "segments.png", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    weights = {w["segment"]: w["weight"] for w in result.json["explanations"][0]["weights"]}
    assert weights[0] > 0.1
    assert abs(weights[7]) < 0.01
    with Image.open(tmp_path / "segments.png") as written:
        assert np.array_equal(np.asarray(written), halves)
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (64, 48)
        colour = np.asarray(overlay.convert("RGB"))[24, 10].astype(int)
    # The red half is painted green.
    assert colour[1] > colour[0]


def test_pixels_outside_the_region_are_marked(
    limelens: Run, one_model: Path, red: Path, tmp_path: Path
) -> None:
    limelens(
        "explain", red, "--model", one_model / "colours" / "1", "--region", "0,0,0.5,1",
        "--segments", tmp_path / "segments.png", "--num-samples", 100,
    )  # fmt: skip
    with Image.open(tmp_path / "segments.png") as written:
        ids = np.asarray(written)
    assert ids.shape == (48, 64)
    assert (ids[:, 32:] == 65535).all()
    assert (ids[:, :32] < 65535).all()


@pytest.mark.parametrize("name", ["--out", "--heat-map"])
def test_several_labels_are_drawn_one_above_the_other(
    limelens: Run, one_model: Path, red: Path, tmp_path: Path, name: str
) -> None:
    model = one_model / "colours" / "1"
    sizes = []
    for labels in (("red",), ("red", "blue")):
        chosen = [word for label in labels for word in ("--label", label)]
        result = limelens(
            "explain", red, "--model", model, *chosen, "--num-samples", 100, name,
            tmp_path / "drawn.png",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / "drawn.png") as drawn:
            sizes.append(drawn.size)
    assert sizes[1] == (sizes[0][0], 2 * sizes[0][1])


def test_text_output_has_label_alert_and_weights(limelens: Run, one_model: Path, red: Path) -> None:
    model = one_model / "colours" / "1"
    shown = limelens("classify", red, "--model", model, "--region", "0,0,0.5,1").stdout
    assert "red" in shown
    assert "(alert)" in shown
    shown = limelens("explain", red, "--model", model, "--num-samples", 100).stdout
    assert "segment" in shown
    assert "±" in shown
    assert "stability" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("classify", "x.png", "--model", "nowhere.onnx"), "nowhere.onnx: No such file"),
        (("classify", "{red}", "--server", "127.0.0.1:1"), "127.0.0.1:1"),
        (("explain", "{red}", "--model", "{model}", "--label", "pink"), "pink"),
        (("explain", "{red}", "--model", "{model}", "--num-samples", "3"), "--num-samples: 3"),
        (("explain", "gone.png", "--model", "{model}"), "gone.png: No such file or directory"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    limelens: Run, one_model: Path, red: Path, arguments: tuple[str, ...], message: str
) -> None:
    filled = [word.format(red=red, model=one_model / "colours" / "1") for word in arguments]
    result = limelens(*filled, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify",),
        ("classify", "x.png", "--region", "half"),
        ("classify", "x.png", "--region", "0.5,0,0.5,1"),
        ("explain", "x.png", "--seed", "99999999999"),
        ("serve", "--listen", "8500"),
        ("serve", "--http", "127.0.0.1:99999"),
        ("serve", "--health-listen", "unix:here"),
        ("serve", "--tls-client-ca", "ca.pem"),
        ("explain", "x.png", "--segmentation", "sharp"),
        ("explain", "x.png", "--hide", "invisible"),
        ("explain", "x.png", "--num-samples", "many"),
        ("export", ".", "--name", "x", "--crop-margin", "wide"),
        ("export", ".", "--name", "x", "--crop-margin", "2.5"),
        ("tune-explanations", "model.onnx", "images", "--images", "2"),
        ("dance",),
    ],
)
def test_wrong_usage_is_exit_code_2(limelens: Run, arguments: tuple[str, ...]) -> None:
    result = limelens(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "evaluate",
        "calibrate",
        "export",
        "tune-explanations",
        "inspect",
        "ingest",
        "synthesize",
        "scenes",
        "serve",
        "classify",
        "explain",
        "index",
        "similar",
        "demo",
    ],
)
def test_every_command_has_help(limelens: Run, command: str) -> None:
    result = limelens(command, "--help")
    assert result.exit_code == 0
    assert f"limelens {command}" in result.stdout
