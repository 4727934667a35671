"""The layout of `--help`: each option on a line of its own, with its help below it.

The tables that typer draws cut the names of options on a terminal of 80 columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from limelens.cli.options.request_fields import naming_options
from limelens.cli.terminal.arguments import like, refuse_empty_paths

_WIDEST: Final = 100
_NAME, _HELP = 2, 6
_KIND: Final = re.compile(r"<([^<>]*)>")
_AT_LEAST: Final = re.compile(r"\bx>=([\d.]+)")
_BETWEEN: Final = re.compile(r"([\d.]+)<=x<=([\d.]+)")
# The most that a field of the wire holds is no limit that anyone meets.
_NO_LIMIT: Final = re.compile(rf"([\d.]+)<=x<=(?:{2**31 - 1}|{2**32 - 1})\b")
_KINDS: Final = {
    "str": "TEXT",
    "path": "PATH",
    "int": "NUMBER",
    "int range": "NUMBER",
    "float": "NUMBER",
    "float range": "NUMBER",
}


class Command(TyperCommand):
    """A command whose help fits every terminal, and whose errors name its options."""

    def __init__(self, *arguments: Any, **given: Any) -> None:
        super().__init__(*arguments, **given)
        for one in self.params:
            if one.param_type_name == "argument" and one.metavar is None and one.name:
                one.metavar = one.name.upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments; refuses empty paths, and hints at options by their other names."""
        try:
            is_asked_for_help = bool({*ctx.help_option_names} & {*args})
            if not ctx.resilient_parsing and not is_asked_for_help:
                typed, _, _ = self.make_parser(ctx).parse_args(args=[*args])
                refuse_empty_paths(self.params, self.callback, typed, ctx)
            return super().parse_args(ctx, args)
        except typer.BadParameter:
            raise
        except Exception as error:
            # typer has no public name for the class of this error.
            if found := like(getattr(error, "option_name", ""), self.params):
                error.possibilities = found  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        with naming_options({name for one in self.params for name in one.opts}):
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line, with arguments as IMAGE, [CONFIG] and [IMAGE...]."""
        # typer writes "{image}", "{IMAGE}...", "[config]" and "[[IMAGE]]...".
        pieces = [re.sub(r"\{(\w+)(?:\.{3})?\}", lambda found: found[1].upper(), one)
                  for one in super().collect_usage_pieces(ctx)]  # fmt: skip
        pieces = [re.sub(r"\[+(\w+)\]+\.{3}", r"[\1...]", one) for one in pieces]
        return [one.upper() if re.fullmatch(r"\[\w+\]", one) else one for one in pieces]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help."""
        del formatter
        page = _Page()
        page.usage(ctx, self)
        page.text(self.help)
        page.parameters(self.get_params(ctx), ctx)
        page.text(self.epilog)
        page.end()


class Group(TyperGroup):
    """The program itself, with its commands by panel."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the help."""
        del formatter
        page = _Page()
        page.usage(ctx, self)
        page.text(self.help)
        page.parameters(self.get_params(ctx), ctx)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            first = (command.help or "").strip().partition("\n\n")[0]
            panels.setdefault(panel, []).append((name, " ".join(first.split())))
        for panel, commands in panels.items():
            page.heading(panel)
            page.table(commands)
        page.text(self.epilog)
        page.end()


class _Page:
    """Prints one page of help."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._console.width = min(self._console.width, _WIDEST)

    def usage(self, ctx: Any, command: Any) -> None:
        pieces = " ".join(command.collect_usage_pieces(ctx))
        # The command that a group stands for has no name of its own.
        words = " ".join([*ctx.command_path.split(), pieces])
        self._print(Text.assemble(("Usage: ", "bold"), words), 0)

    def heading(self, text: str) -> None:
        self._console.print()
        self._print(Text(text, "bold"), 0)

    def text(self, text: str | None) -> None:
        """Paragraphs, wrapped."""
        for paragraph in (text or "").strip().split("\n\n"):
            if plain := " ".join(paragraph.split()).replace("**", ""):
                self._console.print()
                self._print(Text(plain), 0)

    def parameters(self, parameters: Iterable[Any], ctx: Any) -> None:
        """Arguments and options, by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for one in parameters:
            record = one.get_help_record(ctx)
            if record is None:
                continue
            usual = "Arguments" if one.param_type_name == "argument" else "Options"
            panel = getattr(one, "rich_help_panel", None) or usual
            panels.setdefault(panel, []).append(_readable(*record))
        # A command's own options come before those that several share.
        for panel in sorted(panels, key=lambda name: ("Arguments", "Options").index(name)
                            if name in ("Arguments", "Options") else len(panels)):  # fmt: skip
            self.heading(panel)
            for name, words in panels[panel]:
                self._print(Text(name, "cyan"), _NAME)
                self._print(Text(words), _HELP)

    def table(self, rows: list[tuple[str, str]]) -> None:
        """Short names, each with its help beside it."""
        widest = max(len(name) for name, _ in rows)
        for name, words in rows:
            room = self._console.width - widest - _NAME - 3
            lines = list(Text(words).wrap(self._console, room))
            for number, line in enumerate(lines):
                beside = f"{name:{widest}}" if number == 0 else " " * widest
                self._print(Text.assemble((beside, "cyan"), "  ", line.plain.rstrip()), _NAME)

    def end(self) -> None:
        self._console.print()

    def _print(self, text: Text, indent: int) -> None:
        self._console.print(Padding(text, (0, 0, 0, indent), expand=False))


def _readable(name: str, words: str) -> tuple[str, str]:
    """A parameter's name and help, with its kind and choices in words."""
    choices = ""

    def kind(found: re.Match[str]) -> str:
        nonlocal choices
        one = found[1].removeprefix("list[").removesuffix("]")
        if "|" in one:
            choices = f"One of {', '.join(one.split('|'))}."
            return "CHOICE"
        return _KINDS.get(one, one.upper())

    name = _KIND.sub(kind, name)
    if not name.startswith("-"):  # an argument
        name = name.partition(" ")[0].strip("[].").upper()
    # "[default: (the only one)]" describes the default.
    words = re.sub(r"\[default: \((.*?)\)(; .*)?\]$", r"[default: \1\2]", words)
    words = _NO_LIMIT.sub(r"\1 or more", words)
    words = _BETWEEN.sub(r"\1 to \2", _AT_LEAST.sub(r"\1 or more", words))
    help_, bracket, rest = words.partition("  [")
    extra = f" [{rest}" if bracket else ""
    return name, " ".join(part for part in (help_, choices) if part) + extra
