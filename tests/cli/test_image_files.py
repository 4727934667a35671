"""Images that a command writes have the format of their suffix, or are refused before the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from limelens.cli.app import app

WRITING = {
    "--draw": ("classify", "gone.png", "--faces"),
    "--find-learning-rate": ("train", "gone"),
    "--frame": ("events", "show", "1"),
    "--heat-map": ("explain", "gone.png"),
    "--out": ("explain", "gone.png"),
    "--overlay": ("events", "show", "1"),
    "--preview": ("train", "gone"),
    "--segments": ("explain", "gone.png"),
    "--sheet": ("similar", "gone.index", "gone.png"),
    "--steps": ("explain", "gone.png"),
    "--thumbnail": ("events", "show", "1"),
}


@pytest.mark.parametrize("option", WRITING)
def test_another_suffix_is_refused_before_the_work(
    limelens: Callable[..., Any], option: str
) -> None:
    result = limelens(*WRITING[option], option, "why.gif")
    assert result.exit_code == 2
    refused = f"Invalid value for '{option}': why.gif has the suffix .gif; expected "
    assert refused + ".png" in result.said or refused + ".jpeg, .jpg, " in result.said


def test_every_option_that_writes_an_image_is_tried() -> None:
    found = {
        option
        for one in _parameters(typer.main.get_command(app))
        if "PNG" in (one.metavar or "") and one.opts[0] != "--segments-in"
        for option in one.opts
    }
    assert found == {*WRITING}


def _parameters(command: Any) -> Iterator[Any]:
    for one in getattr(command, "commands", {}).values():
        yield from _parameters(one)
    yield from command.params


def test_a_preview_has_the_format_of_its_suffix(
    limelens: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.webp"
    assert limelens("train", images, "--arch", "cnn3", "--preview", sheet).exit_code == 0
    with Image.open(sheet) as written:
        assert written.format == "WEBP"
