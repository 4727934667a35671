"""`limelens tune-explanations` from bundle to bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Result

pytest.importorskip("skimage")

Run = Callable[..., Result]


def test_settings_are_found_printed_written_and_used(
    limelens: Run, one_model: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        pixels = np.full((48, 48, 3), 110, np.uint8)
        pixels[16:32, 8 * number : 8 * number + 16] = ((255, 0, 0), (0, 255, 0))[number % 2]
        Image.fromarray(pixels).save(images / f"{number}.png")
    version = tmp_path / "models" / "colours" / "1"
    shutil.copytree(one_model / "colours" / "1", version)
    before = (version / "model.onnx").read_bytes()
    options = (version, images, "--num-samples", "20")
    dry = limelens("tune-explanations", *options, "--dry-run")
    assert dry.exit_code == 0
    assert "Chosen: " in dry.stdout
    assert max(map(len, dry.stdout.splitlines())) <= 80
    assert (version / "model.onnx").read_bytes() == before
    (version / "model.sig").touch()
    written = limelens("tune-explanations", *options, "--json")
    assert written.exit_code == 0
    assert "model.sig beside it no longer fits" in written.stderr
    settings = written.json["settings"]
    assert settings["why"]["images"] == 5
    explained = limelens("explain", images / "0.png", "--model", version, "--json").json
    given = [name for name in settings if name != "why"]
    assert explained["settings_from_model"] == given
    for name in given:
        assert explained["settings"][name] == settings[name]
