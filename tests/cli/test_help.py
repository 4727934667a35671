from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from limelens.cli.app import app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", COMMANDS)
def test_option_names_are_whole_on_a_narrow_terminal(
    limelens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = limelens(command, "--help").stdout
    assert max(map(len, shown.splitlines())) <= width
    words = {word.strip("[](),.;:") for word in shown.split()}
    one: Any = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    for parameter in one.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert {*parameter.opts} <= words
    assert "…" not in words
    assert not re.search(r" to\s+\d{10}\b", shown)  # a limit of the wire, which nobody meets


def test_choices_are_listed_in_words(limelens: Callable[..., Any]) -> None:
    shown = " ".join(limelens("train", "--help").stdout.split())
    assert "One of none, light, standard, strong. [default: standard]" in shown
    assert "[default: 16 up to 1,000 training images, else 32; 2 or more]" in shown


@pytest.mark.parametrize(
    ("command", "argument"),
    [("watch", "CONFIG"), ("console", "[CONFIG]"), ("classify", "IMAGE...")],
)
def test_arguments_are_in_capitals(
    limelens: Callable[..., Any], command: str, argument: str
) -> None:
    usage = limelens(command, "--help").stdout.splitlines()[0]
    assert usage.endswith(f"limelens {command} [OPTIONS] {argument}")
