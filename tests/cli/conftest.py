"""Runs the command line in this process, as the console script does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limelens.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Stdout, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)

    @property
    def said(self) -> str:
        """What stderr says; see `unframed`."""
        return unframed(self.stderr)


def unframed(text: str) -> str:
    """A message in one line, without the frame of an error."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture
def limelens(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["limelens", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(params=["file", "server"])
def asked(
    request: pytest.FixtureRequest, one_model: Path, start_server: Callable[..., Any]
) -> tuple[str, str]:
    """Options that ask a model file, or a server."""
    if request.param == "file":
        return "--model", str(one_model / "colours" / "1" / "model.onnx")
    return "--server", start_server().address


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of plain colours, with splits."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 16), ("val", 4), ("test", 4)):
        for label, base in (("dark", 20), ("light", 180)):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                colour = tuple(base + (index * k) % 60 for k in (3, 7, 11))
                image = Image.new("RGB", (40, 40), colour)
                image.putpixel((index, index), (255, 0, 0))
                image.save(folder / split / label / f"{index}.png")
    return folder
