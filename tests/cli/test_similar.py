"""`limelens index` and `limelens similar`, by a file and by a server."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.explain.drawing.fonts import MissingFontWarning, font_for

Run = Callable[..., Any]

COLOURS = {
    "train/warm/red.png": (250, 10, 10),
    "train/warm/orange.png": (250, 120, 10),
    "val/cold/teal.png": (10, 140, 200),
    "plain.png": (10, 250, 10),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), colour).save(folder / name)
    (folder / "val" / "cold" / "page.jpg").write_text("<!doctype html><html></html>")
    return folder


@pytest.fixture
def index(limelens: Run, one_model: Path, data: Path, tmp_path: Path) -> Path:
    """An index by colours 1."""
    path = tmp_path / "colours.index"
    model = one_model / "colours" / "1"
    assert limelens("index", data, "--model", model, "--out", path).exit_code == 0
    return path


def test_index_and_similar_print_the_documented_json(
    limelens: Run, asked: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "colours.index"
    result = limelens("index", data, *asked, "--out", path, "--json")
    assert result.exit_code == 0, result.stderr
    report = result.json
    assert report["index"] == str(path)
    assert report["data"] == str(data)
    assert (report["model"], report["version"], report["embedding_size"]) == ("colours", 1, 3)
    assert len(report["digest"]) == 64
    assert report["num_images"] == 4
    assert report["labels"] == {"cold": 1, "warm": 2}
    (skipped,) = report["skipped"]
    assert skipped["path"] == "val/cold/page.jpg"
    assert "HTML" in skipped["reason"]

    images = [data / "train/warm/red.png", data / "plain.png"]
    result = limelens("similar", path, *images, *asked, "-k", 2, "--json")
    assert result.exit_code == 0, result.stderr
    first, second = result.json
    assert {*first} == {"path", "index", "model", "version", "neighbours"}
    assert (first["path"], first["index"]) == (str(images[0]), str(path))
    assert (first["model"], first["version"]) == ("colours", 1)
    assert [(one["path"], one["label"]) for one in first["neighbours"]] == [
        ("train/warm/red.png", "warm"),
        ("train/warm/orange.png", "warm"),
    ]
    assert first["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert (second["neighbours"][0]["path"], second["neighbours"][0]["label"]) == ("plain.png", "")


def test_one_image_is_a_list_and_a_small_index_returns_all(
    limelens: Run, index: Path, one_model: Path, data: Path
) -> None:
    model = one_model / "colours" / "1"
    (answer,) = limelens("similar", index, data / "plain.png", "--model", model, "--json").json
    assert len(answer["neighbours"]) == 4


def test_a_server_uses_the_model_of_the_index(
    limelens: Run, index: Path, models: Path, data: Path, start_server: Callable[..., Any]
) -> None:
    """Although it has a newer version and another model."""
    server = start_server(models).address
    image = data / "plain.png"
    assert limelens("similar", index, image, "--server", server, "--json").exit_code == 0
    for other in (("--model", "colours"), ("--model", "tags"), ("--version", "2")):
        result = limelens("similar", index, image, "--server", server, *other, "--json")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "the index was made with colours version 1" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_another_models_file_is_refused(
    limelens: Run, index: Path, models: Path, data: Path
) -> None:
    model = models / "colours" / "2" / "model.onnx"
    result = limelens("similar", index, data / "plain.png", "--model", model)
    assert result.exit_code == 1
    assert "colours version 2 (digest" in result.stderr
    assert "make it again with limelens index" in result.stderr


def test_a_broken_image_does_not_stop_the_others(
    limelens: Run, index: Path, one_model: Path, data: Path, tmp_path: Path
) -> None:
    images = (data / "val/cold/page.jpg", data / "plain.png", tmp_path / "gone.png")
    model = one_model / "colours" / "1"
    sheet = tmp_path / "sheet.png"
    result = limelens("similar", index, *images, "--model", model, "--sheet", sheet, "--json")
    assert result.exit_code == 1
    first, second, third = result.json
    assert "HTML" in first["error"]
    assert second["neighbours"][0]["path"] == "plain.png"
    assert third["error"] == "No such file or directory"
    assert sheet.exists()


def test_only_the_region_is_searched_by(
    limelens: Run, index: Path, one_model: Path, tmp_path: Path
) -> None:
    halves = np.zeros((20, 40, 3), np.uint8)
    halves[:, :20], halves[:, 20:] = (10, 250, 10), (250, 10, 10)
    Image.fromarray(halves).save(tmp_path / "halves.png")
    for region, expected in (("0,0,0.5,1", "plain.png"), ("0.5,0,1,1", "train/warm/red.png")):
        (answer,) = limelens(
            "similar", index, tmp_path / "halves.png", "--model", one_model / "colours" / "1",
            "--region", region, "-k", 1, "--json",
        ).json  # fmt: skip
        assert answer["neighbours"][0]["path"] == expected


def test_text_output_has_a_table_and_a_sheet(
    limelens: Run, one_model: Path, data: Path, tmp_path: Path
) -> None:
    model = one_model / "colours" / "1"
    shown = limelens("index", data, "--model", model, "--out", tmp_path / "index")
    assert "4 images of 2 labels in 3 numbers each, by colours version 1" in shown.stdout
    assert f"IMAGE --model {model}" in shown.stdout.replace("\n", " ")
    assert "left out val/cold/page.jpg: " in shown.stderr
    assert "HTML" in shown.stderr
    image = data / "train/warm/red.png"
    sheet = tmp_path / "sheet.png"
    shown = limelens("similar", tmp_path / "index", image, "--model", model, "--sheet", sheet)
    assert shown.exit_code == 0
    assert "similarity" in shown.stdout
    assert "1.0000" in shown.stdout
    assert "train/warm/orange.png" in shown.stdout
    assert f"Wrote {sheet}" in shown.stdout
    with Image.open(sheet) as drawn:
        assert drawn.width > 5 * 168
        assert drawn.getpixel((90, 90)) == (250, 10, 10)


def test_moved_images_are_found_in_the_folder_of_data(
    limelens: Run, one_model: Path, data: Path, tmp_path: Path
) -> None:
    model = one_model / "colours" / "1"
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    shutil.copytree(data, there)
    assert limelens("index", there, "--model", model, "--out", tmp_path / "i").exit_code == 0
    there.rename(elsewhere)
    command = ("similar", tmp_path / "i", data / "plain.png", "--model", model)
    drawn = ("--sheet", tmp_path / "sheet.png")
    result = limelens(*command, *drawn)
    assert result.exit_code == 0
    assert "4 images could not be read for the sheet" in result.stderr
    result = limelens(*command, *drawn, "--data", elsewhere)
    assert result.stderr == ""


def test_a_label_without_a_font_is_reported_in_one_line(
    limelens: Run, one_model: Path, data: Path, tmp_path: Path
) -> None:
    label = "\U00016a70"  # a letter of Tangsa
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingFontWarning)
        if label in font_for(label, 14)[1]:
            pytest.skip("this system has a font even for Tangsa")
    folder = tmp_path / "labelled" / label
    folder.mkdir(parents=True)
    shutil.copy(data / "plain.png", folder)
    model = one_model / "colours" / "1"
    index, sheet = tmp_path / "index", tmp_path / "sheet.png"
    assert limelens("index", folder.parent, "--model", model, "--out", index).exit_code == 0
    result = limelens(
        "similar", index, data / "plain.png", "--model", model, "--sheet", sheet, "--json"
    )
    assert result.exit_code == 0
    assert result.json[0]["neighbours"][0]["label"] == folder.name
    assert result.stderr.startswith("No font on this system has the characters")
    assert len(result.stderr.strip().splitlines()) == 1


def test_failures_are_one_line_and_exit_code_1(
    limelens: Run, index: Path, one_model: Path, data: Path, tmp_path: Path
) -> None:
    model = ("--model", one_model / "colours" / "1")
    damaged = tmp_path / "damaged.index"
    damaged.write_bytes(index.read_bytes()[:-30])
    image = data / "plain.png"
    for arguments, message in (
        (("similar", damaged, image, *model), "damaged.index: not an index, or a damaged one"),
        (("similar", tmp_path / "none", image, *model), "No such file or directory"),
        (("similar", index, image, "--server", "127.0.0.1:1"), "127.0.0.1:1"),
        (("index", tmp_path / "none", *model, "--out", damaged), "is no folder"),
        (("index", data, *model, "--out", tmp_path), "is a folder; expected the name of a file"),
        (("index", data, "--model", "no.onnx", "--out", damaged), "no.onnx: No such file"),
    ):
        result = limelens(*arguments, "--json")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "data"),
        ("index",),
        ("similar", "index"),
        ("similar", "index", "a.png", "-k", "0"),
        ("similar", "index", "a.png", "--region", "half"),
    ],
)
def test_wrong_usage_is_exit_code_2(limelens: Run, arguments: tuple[str, ...]) -> None:
    result = limelens(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["index", "similar"])
def test_both_commands_have_help(limelens: Run, command: str) -> None:
    result = limelens(command, "--help")
    assert result.exit_code == 0
    assert f"limelens {command}" in result.stdout
