"""Typing errors are refused before what takes seconds to load: torch, scikit-learn, Ray.

An output that cannot be written is refused even before the input is looked at.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from limelens.cli.app import app

MODEL = Path(__file__).parents[2] / "models" / "facemask" / "2" / "model.onnx"
# One process for all, because each takes a second to start.
CODE = """
import contextlib, io, json, sys
from limelens.cli import main
for arguments in json.load(sys.stdin):
    sys.argv[1:] = arguments
    code, said = 0, io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    slow = sorted({"torch", "sklearn", "ray"} & sys.modules.keys())
    print(json.dumps([code, said.getvalue(), slow]), flush=True)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(4):
        path = tmp_path / "data" / ("with_mask", "other")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 60 * number, np.uint8)).save(path)
    return tmp_path / "data"


CASES = [
    (("train", "nowhere"), "nowhere is no folder"),
    (("train", "{data}/with_mask"), "has no label folders"),
    (("train", "{data}", "--alert-label", "intruder"), "not one of the labels other, with_mask"),
    (("train", "{data}", "--epochs", "3", "--config", "gone.toml"), "gone.toml cannot be read"),
    (("train", "{data}", "--start-from", "gone"), "gone does not exist"),
    (("train", "{data}", "--macro", "gone.csv"), "gone.csv cannot be read"),
    (("train", "{data}", "--label-column", "x"), "has no table"),
    (("train", "nowhere", "--preview", "x.png"), "nowhere is no folder"),
    (("train", "nowhere", "--find-learning-rate", "x.png"), "nowhere is no folder"),
    (("evaluate", "gone", "{data}"), "gone is not there"),
    (("evaluate", "{model}", "nowhere"), "nowhere is no folder"),
    (
        ("evaluate", "{model}", "{divided}", "--split", "test"),
        "has the splits ['train']; expected 'test'",
    ),
    (("evaluate", "{models}", "{data}"), "{models}: a model's folder; expected {version}"),
    (("evaluate", "{models}", "{data}", "--card", "x"), "expected {version}"),
    (("inspect", "{data}", "--run", "{models}"), "expected {version}"),
    (("sign", "{models}", "--key", "gone"), "expected {version}"),
    (("tune-explanations", "{models}", "{data}"), "expected {version}"),
    (("bulk", "classify", "{data}", "--out", "x", "--model", "{models}"), "expected {version}"),
    (("train", "{data}", "--teacher", "gone"), "gone does not exist"),
    (("calibrate", "gone", "{data}"), "gone does not exist"),
    (("export", "gone", "--name", "x"), "gone does not exist"),
    (("export", "{data}", "--name", "x"), "has neither best.pt nor last.pt"),
    (("inspect", "nowhere"), "nowhere is no folder"),
    (("inspect", "{data}", "--run", "gone"), "gone is not there"),
    (
        ("bulk", "classify", "nowhere", "--out", "x", "--model", "{model}"),
        "nowhere: no such file or folder",
    ),
    (
        ("bulk", "classify", "{data}", "--out", "x", "--model", "gone.onnx"),
        "gone.onnx: No such file",
    ),
    (("train", "{data}", "--out", "{file}/run"), "{file} is a file; expected a folder"),
    (("export", "{file}", "--name", "x", "--models", "{file}"), "{file} is a file"),
    (("export", "{file}", "--name", "x", "--triton", "{file}"), "{file} is a file"),
    (("evaluate", "{model}", "{data}", "--card", "x"), "README.md is a folder"),
]
NO_FOLDER = "gone/x: cannot be written: gone is no folder"
A_FILE = "{file} is a file; expected a folder"
OUTPUTS = [
    (("classify", "no.png", "--faces", "--draw", "{file}/x"), A_FILE),
    (("classify", "no.png", "--faces", "--save-drawn", "{file}"), A_FILE),
    (("explain", "no.png", "--out", "gone/x"), NO_FOLDER),
    (("explain", "no.png", "--out", "{file}/x"), A_FILE),
    (("explain", "no.png", "--out", "{data}"), "{data} is a folder; expected the name of a file"),
    (("explain", "no.png", "--heat-map", "gone/x"), NO_FOLDER),
    (("explain", "no.png", "--segments", "gone/x"), NO_FOLDER),
    (("explain", "no.png", "--steps", "gone/x"), NO_FOLDER),
    (("explain", "no.png", "--report", "gone/x"), NO_FOLDER),
    (("similar", "no.index", "no.png", "--sheet", "gone/x"), NO_FOLDER),
    (("index", "nowhere", "--out", "{file}/x"), A_FILE),
    (("index", "nowhere", "--out", "gone/x"), NO_FOLDER),
    (("classify", "no.png", "--faces", "--draw", "gone/x"), NO_FOLDER),
    (("inspect", "nowhere", "--out", "gone/x"), NO_FOLDER),
    (("evaluate", "no.onnx", "nowhere", "--predictions", "gone/x"), NO_FOLDER),
    (("evaluate", "no.onnx", "nowhere", "--report", "gone/x"), NO_FOLDER),
    (("train", "nowhere", "--preview", "gone/x"), NO_FOLDER),
    (("train", "nowhere", "--find-learning-rate", "gone/x"), NO_FOLDER),
    (("tune-explanations", "no.onnx", "nowhere", "--out", "gone/x"), NO_FOLDER),
    (("ingest", "no.csv", "--out", "{file}"), A_FILE),
    (("synthesize", "{file}"), A_FILE),
    (("scenes", "nowhere", "--out", "{file}/x"), A_FILE),
    (("export", "no.onnx", "--triton", "{file}"), A_FILE),
    (("bulk", "classify", "nowhere", "--out", "{file}", "--model", "no.onnx"), A_FILE),
    (("bulk", "explain", "nowhere", "--out", "{file}/x", "--model", "no.onnx"), A_FILE),
    (("bulk", "embed", "nowhere", "--out", "{file}", "--model", "no.onnx"), A_FILE),
    (("events", "export", "--record", "no", "--out", "gone/x"), NO_FOLDER),
    (("events", "show", "1", "--record", "no", "--overlay", "gone/x"), NO_FOLDER),
    (("events", "show", "1", "--record", "no", "--frame", "gone/x"), NO_FOLDER),
    (("events", "show", "1", "--record", "no", "--thumbnail", "gone/x"), NO_FOLDER),
    (("camera", "no.mp4", "--explain-on-change", "{file}"), A_FILE),
    (("console", "show", "--review", "{file}"), A_FILE),
    (("demo", "--out", "{file}/x"), A_FILE),
]


def test_paths_splits_and_labels_are_checked_at_once(data: Path, tmp_path: Path) -> None:
    divided = tmp_path / "divided"
    shutil.copytree(data, divided / "Train")
    file = tmp_path / "file"
    file.write_text("not a folder")
    bundle = tmp_path / "bundle" / "model.onnx"
    (bundle.parent / "README.md").mkdir(parents=True)
    bundle.symlink_to(MODEL)
    names = {
        "data": data,
        "divided": divided,
        "model": bundle,
        "file": file,
        "models": MODEL.parents[1],
        "version": f"one of its versions, such as {MODEL.parent}",
    }
    cases = CASES + OUTPUTS
    given = [[one.format(**names) for one in arguments] for arguments, _ in cases]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps(given),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (arguments, words), (code, said, slow) in zip(cases, found, strict=True):
        assert code == 1, (arguments, said)
        assert words.format(**names) in said, (arguments, said)
        assert slow == [], arguments


def test_every_option_that_writes_is_checked_first() -> None:
    tried = {word for arguments, _ in CASES + OUTPUTS for word in arguments}
    writing = [
        one
        for command in _commands(typer.main.get_command(app))
        for one in command.params
        if one.metavar and re.search(r"\b[Ww]rite\b", getattr(one, "help", None) or "")
    ]
    assert len(writing) > 10
    for one in writing:
        assert tried & {*one.opts}, one.opts


def _commands(command: Any) -> Iterator[Any]:
    if hasattr(command, "commands"):
        for one in command.commands.values():
            yield from _commands(one)
    else:
        yield command


def test_how_a_table_was_read_is_printed_once_on_stderr(
    data: Path, tmp_path: Path, limelens: Callable[..., Any]
) -> None:
    files = sorted(path.relative_to(tmp_path).as_posix() for path in data.rglob("*.png"))
    table = tmp_path / "labels.csv"
    rows = [f"{file},{'ab'[number % 2]},x" for number, file in enumerate(files)]
    table.write_text("\n".join(["file,label,camera", *rows]))
    result = limelens("inspect", table, "--json")
    assert result.exit_code == 0
    assert result.json["labels"] == ["a", "b"]
    line = f"{table}: images by 'file' in {tmp_path}; labels in 'label'; not read: 'camera'"
    assert result.stderr.splitlines().count(line) == 1
