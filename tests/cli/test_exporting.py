"""`limelens export` of a bundle for Triton."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_bundle_is_written_for_triton(limelens: Run, one_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "triton"
    told = limelens("export", one_model / "colours", "--triton", folder)
    assert told.exit_code == 0
    assert f"Wrote {folder}/colours: version 1." in told.stdout
    assert f"Next: tritonserver --model-repository {folder}" in told.stdout
    again = limelens("export", one_model, "--triton", folder, "--json")
    path = str(folder / "colours")
    assert again.json == {
        "triton": [{"model": "colours", "path": path, "versions": [], "already_there": [1]}]
    }
    assert "1 version there" in limelens("export", one_model, "--triton", folder).stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "is a bundle already"),
        (("--triton", "x", "--precision", "int8"), "this option is for a run"),
        (("--name", "other"), "or --triton DIR"),
    ],
)
def test_options_of_runs_are_refused_for_bundles(
    limelens: Run, one_model: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = limelens("export", one_model / "colours" / "1", *options)
    assert result.exit_code == 2
    assert words in result.said
    assert not [*tmp_path.iterdir()]


def test_a_run_needs_a_name(limelens: Run, tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    result = limelens("export", tmp_path, "--triton", tmp_path / "triton")
    assert result.exit_code == 2
    assert "expected the model's name" in result.stderr


def test_a_bundle_needs_neither_torch_nor_grpc(one_model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from limelens.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'grpc'} & {*sys.modules}))"
    )
    given = ["export", one_model / "colours", "--triton", tmp_path / "triton", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, given)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.endswith("[]\n")
