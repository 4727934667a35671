"""Typing errors are refused before what takes seconds to load: torch, scikit-learn, Ray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
]


def test_paths_splits_and_labels_are_checked_at_once(data: Path, tmp_path: Path) -> None:
    divided = tmp_path / "divided"
    shutil.copytree(data, divided / "Train")
    names = {"data": data, "divided": divided, "model": MODEL}
    given = [[one.format(**names) for one in arguments] for arguments, _ in CASES]
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
    for (arguments, words), (code, said, slow) in zip(CASES, found, strict=True):
        assert code == 1, (arguments, said)
        assert words in said, arguments
        assert slow == [], arguments


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
