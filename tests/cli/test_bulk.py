from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")


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
    assert "overlay was True and is not given" in result.stderr
    assert "label was red and is red, green" in result.stderr
