"""Options for labelled images."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Final

import typer

_option: Final = partial(typer.Option, rich_help_panel="If DATA is a table")

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder of label folders, or of train, val and test folders of these, or a table of "
        "images and labels (csv, tsv).",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
]
DataTable = Any
"""The `TableOptions` that `with_table_options` makes of these options."""
_TABLE: Final = {
    "images": Annotated[
        Path | None,
        _option(
            metavar="FOLDER", help="The folder of its images.", show_default="beside the table"
        ),
    ],
    "image_column": Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="The column that names the image.",
            show_default="the one whose cells are files",
        ),
    ],
    "label_column": Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="The column of one label or a list.",
            show_default="label and the like",
        ),
    ],
    "columns": Annotated[
        str | None,
        _option(
            metavar="A,B,…",
            help="The columns of 0 and 1, one for each label.",
            show_default="all there are",
        ),
    ],
    "separator": Annotated[
        str | None,
        _option(metavar="TEXT", help="Separates several labels in a cell.", show_default="| or ;"),
    ],
}


def with_table_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a table in the place of its parameter `table`."""
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _TABLE.items()
    ]
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += options if parameter.name == "table" else [own]

    @wraps(command)
    def run(**given: Any) -> None:
        from limelens.train.data.tables.table import TableOptions

        table = {name: given.pop(name) for name in _TABLE}
        columns = [name.strip() for name in (table["columns"] or "").split(",")]
        table |= {"columns": tuple(name for name in columns if name)}
        table = {name: value for name, value in table.items() if value}
        command(**given, table=TableOptions(**table))

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
