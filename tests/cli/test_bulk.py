from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")


def test_rows_are_counted_by_label_alert_and_decision() -> None:
    from limelens.bulk.decided import Decided

    found = Decided.of(
        [
            {"decision": "label", "labels": ["red", "blue"], "label": None, "alert": True},
            {"decision": "label", "labels": [], "label": "red", "alert": False},
            {"decision": "abstained", "labels": [], "label": None, "alert": False},
            {"error": "no image"},
        ]
    )
    total = found + Decided.from_json(found.to_json()) + Decided()
    assert total.to_json() == {
        "decisions": {"label": 4, "abstained": 2},
        "labels": {"red": 4, "blue": 2},
        "alerts": 2,
    }


@pytest.mark.ci
def test_a_run_ends_with_how_many_images_have_each_label(models: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    colours = [(255, 0, 0)] * 3 + [(0, 0, 255)] * 2 + [(99, 99, 99)]
    for number, colour in enumerate(colours):
        Image.new("RGB", (16, 16), colour).save(images / f"{number}.png")
    (images / "bad.png").write_bytes(b"no image")
    command = (
        sys.executable, "-m", "limelens.cli", "bulk", "classify", "images", "--out", "out",
        "--model", models / "colours" / "2", "--device", "cpu", "--workers", "1",
        "--images-per-file", "2",
    )  # fmt: skip
    # A process of its own: Ray warns of itself, and warnings are errors here.
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    done = run(command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines]
    assert ["red", "3", "42.9%"] in words
    assert ["blue", "2", "28.6%"] in words
    assert ["abstained", "1", "14.3%"] in words
    assert ["error", "1", "14.3%"] in words
    assert "3 rows with an alert" in lines
    again = json.loads(run((*command, "--json")).stdout)
    assert again["done_before"] == 7
    assert again["labels"] == {"red": 3, "blue": 2}
    assert again["decisions"] == {"label": 5, "abstained": 1}
    assert again["alerts"] == 3
    assert again["errors_by_kind"] == {"INVALID_IMAGE": 1}


@pytest.mark.ci
def test_other_options_are_named_as_they_were_given(
    limelens: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    from limelens.bulk.output import open_output
    from limelens.bulk.sources import open_source

    images, out, model = tmp_path / "images", tmp_path / "out", models / "colours" / "1"
    images.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images / "black.png")
    before = {"command": "explain", "model": str(model), "overlay": "True", "label": "red"}
    with open_output(out, open_source(str(images)), "other", before):
        pass
    result = limelens(
        "bulk", "explain", images, "--out", out, "--model", model, "--device", "cpu",
        "--label", "red", "--label", "green",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "--overlay was True and is not given" in result.stderr
    assert "--label was red and is red, green" in result.stderr
