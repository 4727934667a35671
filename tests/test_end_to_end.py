"""From nothing to an explained decision, by the commands that the README names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

LIMELENS = (sys.executable, "-m", "limelens.cli")


def run(*arguments: object) -> Any:
    found = subprocess.run(
        [*LIMELENS, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.ci
def test_faces_are_trained_exported_served_and_explained(
    tmp_path: Path,
) -> None:
    data, models = tmp_path / "faces", tmp_path / "models"
    run("synthesize", data, "--num-images", 160)
    trained = run(
        "train", data, "--out", tmp_path / "run", "--arch", "cnn3", "--input-size", 64,
        "--epochs", 6, "--learning-rate", 1e-3, "--batch-size", 16, "--augment", "light",
        "--alert-label", "without_mask",
    )  # fmt: skip
    assert trained["val"]["accuracy"] >= 0.7
    exported = run(
        "export", tmp_path / "run", "--name", "faces", "--models", models,
        "--explain-settings", "none",
    )  # fmt: skip
    tested = run("evaluate", exported["path"], data)
    assert tested["split"] == "test"
    assert tested["accuracy"] >= 0.65

    server = subprocess.Popen(
        [*LIMELENS, "serve", "--models", models, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split(" on ")[1].split()[0]
        images = sorted((data / "test" / "with_mask").iterdir())
        answers = run("classify", *images, "--server", address)
        right = [answer["label"] == "with_mask" for answer in answers]
        assert np.mean(right) >= 0.6
        assert {answer["alert"] for answer in answers if answer["label"] == "with_mask"} == {False}
        image = images[right.index(True)]
        overlay = tmp_path / "overlay.png"
        explained = run("explain", image, "--server", address, "--out", overlay, "--seed", 0)
        assert explained["explanations"][0]["label"] == "with_mask"
        assert explained["num_samples"] == 1000
        with Image.open(image) as original, Image.open(overlay) as drawn:
            assert drawn.size == original.size
    finally:
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        if server.stdout:
            server.stdout.close()
