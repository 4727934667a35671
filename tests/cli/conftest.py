"""Runs the command line in this process, as the console script does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
