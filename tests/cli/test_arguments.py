"""What every command does with its arguments before they have a meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from limelens.cli.app import app

Run = Callable[..., Any]
THE_PAGE = "page"
"""The command that `limelens console` stands for, whose name nobody types."""


def commands(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield names, command
    else:
        for name, one in command.commands.items():
            yield from commands(one, *names, *([] if name == THE_PAGE else [name]))


COMMANDS = dict(commands(typer.main.get_command(app)))
TEXTS_THAT_NAME_FILES = {"--model", "--face-detector", "--explain-settings", "--drift-reference"}


def names_a_file(one: Any) -> bool:
    return "Path" in str(one.type_descriptor.annotation) or (
        bool(TEXTS_THAT_NAME_FILES & {*one.opts}) and one.default != "" and one.metavar != "NAME"
    )


def test_an_empty_path_is_refused_by_every_command(
    limelens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    num_tried = 0
    for names, command in COMMANDS.items():
        is_joined = False
        for one in filter(names_a_file, command.params):
            if one.param_type_name == "option":
                given, shown = [one.opts[0], ""], one.opts[0]
            else:
                places = [other for other in command.params if other.param_type_name == "argument"]
                given, shown = ["" if other is one else "x" for other in places], one.metavar
            joined = [] if is_joined or one.param_type_name != "option" else [[f"{given[0]}="]]
            is_joined |= bool(joined)  # once for each command: all are read alike
            for words in (given, *joined):
                result = limelens(*names, *words)
                assert result.exit_code == 2, (names, words, result)
                assert f"Invalid value for '{shown}'" in result.said, names
                assert ": the path is empty" in result.said, names
            num_tried += 1
    assert num_tried > 80
    assert [*tmp_path.iterdir()] == []


def test_an_empty_path_among_others_is_refused_and_an_empty_text_is_not(limelens: Run) -> None:
    result = limelens("classify", "a.png", "", "--model", "x.onnx")
    assert result.exit_code == 2
    assert "Invalid value for 'IMAGE': the path is empty" in result.said
    result = limelens("export", "gone", "--name", "x", "--note", "", "--limits", "")
    assert result.exit_code == 1
    assert "gone does not exist" in result.stderr
    assert limelens("classify", "", "--help").exit_code == 0


def test_arguments_are_in_capitals_in_every_message(limelens: Run) -> None:
    for names, command in COMMANDS.items():
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        if not arguments or not arguments[0].required:
            continue
        name = arguments[0].metavar
        assert name == name.upper(), names
        result = limelens(*names)
        assert result.exit_code == 2
        assert f"Missing argument '{name}'." in result.said, names


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("serve", "--port", "8500"), "--listen"),
        (("serve", "--host", "0.0.0.0"), "--listen"),
        (("serve", "--gpu"), "--device"),
        (("serve", "--workers", "4"), "--processes"),
        (("serve", "--model-repository=models"), "--models"),
        (("classify", "x.png", "--url", "localhost:8001"), "--server"),
        (("train", "x", "--workers", "4"), "--num-workers"),
        (("train", "x", "--lr", "0.1"), "--learning-rate"),
        (("console", "--port", "80"), "--listen"),
        (("serve", "--modls", "x"), "--models"),
    ],
)
def test_an_option_of_another_program_is_hinted_at(
    limelens: Run, arguments: tuple[str, ...], hint: str
) -> None:
    result = limelens(*arguments)
    assert result.exit_code == 2
    option = next(one for one in arguments if one.startswith("--")).partition("=")[0]
    assert f"No such option: {option} (Possible options: {hint})" in result.said


def test_only_options_of_the_command_are_hinted_at(limelens: Run) -> None:
    assert "Possible" not in limelens("sign", "x", "--port", "1").stderr
