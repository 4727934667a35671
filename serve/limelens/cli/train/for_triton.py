"""The part of `limelens export` that writes for Triton, and needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.markup import escape

from limelens.cli.terminal.printing import out, print_json, print_next
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.tools.triton.repository import WrittenModel

_FOR_BUNDLES: Final = ("source", "name", "triton", "as_json")


def is_bundle(source: Path) -> bool:
    """Whether a place holds bundles, and so is no run."""
    # onnx, which it imports, takes long to load for a command that only prints its help.
    from limelens.serve.tools.triton.repository import find_bundles

    return bool(find_bundles(source))


def export_bundles(
    context: typer.Context, source: Path, triton: Path | None, name: str | None, *, as_json: bool
) -> None:
    """Writes bundles for Triton and says so; options for runs are refused."""
    from limelens.serve.tools.triton.repository import write_models

    if triton is None:
        raise typer.BadParameter(
            f"{source} is a bundle already; expected a run, or --triton DIR", param_hint="RUN"
        )
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name))
        is_given = given is not None and given.name == "COMMANDLINE"
        if is_given and parameter.name not in _FOR_BUNDLES:
            raise typer.BadParameter(
                f"{source} is a bundle, which is written as it is; this option is for a run",
                param_hint=parameter.opts[0],
            )
    written = write_models(source, triton, name=name)
    if as_json:
        print_json({"triton": [model.to_json() for model in written]})
    else:
        print_written(written, triton)


def print_written(written: Sequence[WrittenModel], folder: Path) -> None:
    """Says what was written for Triton."""
    for model in written:
        numbers = ", ".join(map(str, model.added))
        added = f"version {numbers}" if len(model.added) == 1 else f"versions {numbers}"
        there = f"; {counted(len(model.present), 'version')} there already" if model.present else ""
        out.print(
            f"Wrote [bold]{escape(str(model.path))}[/]: {added if model.added else 'nothing'}"
            f"{there}."
        )
    print_next(f"tritonserver --model-repository {folder}")
