"""Every snippet of docs/client.md, run against real servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.serve.rpc.server import Tls

ROOT = Path(__file__).parents[3]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(1, len(SNIPPETS) + 1))
def test_the_snippets_of_the_page_run(
    snippet: str, start_server: Callable[..., Any], certificates: Path, tmp_path: Path
) -> None:
    red = np.full((20, 20, 3), (255, 0, 0), np.uint8)
    (tmp_path / "images").mkdir()
    for name in ("door.jpg", "hall.png", *(f"images/{number}.png" for number in range(40))):
        Image.fromarray(red).save(tmp_path / name)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"nothing")
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(certificates / name, tmp_path)
    detector = "default" if "faces=" in snippet else "none"
    places: dict[str, Callable[[], str]] = {
        "127.0.0.1:8500": lambda: start_server(face_detector=detector).address,
        "classifier.example.com:8500": lambda: (
            start_server(
                listen="localhost:0",
                tls=Tls(
                    certificates / "server.pem",
                    certificates / "server.key",
                    certificates / "ca.pem",
                ),
            ).address
        ),
        "classifier.internal:8500": lambda: start_server(listen="localhost:0").address,
        "unix:/run/limelens.sock": lambda: start_server(listen=f"unix:{tmp_path}/s").address,
    }
    for place, start in places.items():
        if place in snippet:
            snippet = snippet.replace(place, start())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
