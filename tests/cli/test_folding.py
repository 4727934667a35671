from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limelens.cli.terminal.folding import Folded, at_spaces

PATH = "train/person_with_a_mask/frame_of_the_camera_000001.png"
LABEL = "person_without_a_mask_seen_from_the_side"


def table_lines(width: int, *cells: str) -> list[str]:
    table = Table.grid(padding=(0, 2))
    table.add_row("0.9973", *map(Folded, cells))
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [120, 80, 60, 50])
def test_names_in_tables_break_between_their_parts(width: int) -> None:
    lines = table_lines(width, LABEL, PATH)
    assert max(map(len, lines)) <= width
    assert "0.9973" in lines[0]
    shown = [piece for line in lines for piece in line.split()]
    parts = {*LABEL.split("_"), *PATH.replace("/", "_").split("_")}
    assert {part for piece in shown for part in piece.replace("/", "_").split("_")} <= {
        *parts, "", "0.9973",
    }  # fmt: skip


def test_a_name_without_parts_is_whole_all_the_same() -> None:
    assert "".join(table_lines(20, "x" * 50)).replace(" ", "").count("x") == 50


def test_markup_in_a_cell_is_markup() -> None:
    assert table_lines(80, r"[bold]a[/] \[b]") == ["0.9973  a [b]"]


def test_lines_break_at_spaces_and_longer_words_stay_whole() -> None:
    found = at_spaces(Text("one two three " + "x" * 30 + " four\n\n  five"), 12).plain
    assert found == "one two\nthree\n" + "x" * 30 + "\nfour\n\n  five"


def on_a_terminal(folder: Path, columns: int, *arguments: object) -> str:
    """What a terminal is sent by a command, without colours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "limelens.cli", *map(str, arguments)],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
        cwd=folder,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        seen += data
    os.close(ours)
    process.wait()
    return Text.from_ansi(seen.decode().replace("\r\n", "\n")).plain


def test_a_terminal_gets_lines_that_break_at_spaces(one_model: Path, tmp_path: Path) -> None:
    image = "long_" * 14 + ".png"
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / image)
    model = one_model / "colours" / "1"
    shown = on_a_terminal(tmp_path, 60, "classify", image, "gone_" * 6, "--model", model)
    assert shown.splitlines() == [
        f"{image}:",
        "red (alert)   red 0.995  green 0.002  blue 0.002",
        "gone_gone_gone_gone_gone_gone_: No such file or directory",
    ]
    shown = on_a_terminal(tmp_path, 40, "classify", "gone_" * 6, "--model", model)
    assert shown.splitlines() == ["gone_gone_gone_gone_gone_gone_: No such", "file or directory"]


def test_an_error_on_a_terminal_breaks_at_spaces(tmp_path: Path) -> None:
    shown = on_a_terminal(tmp_path, 60, "export", "gone", "--name", "x")
    assert shown == ("limelens: gone does not exist; expected a run of `limelens\ntrain`\n")
