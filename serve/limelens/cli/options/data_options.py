"""Options for labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from limelens.train.data.tables.table import TableOptions

_PANEL: Final = "If DATA is a table"

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder of label folders, or of train, val and test folders of these, or a table of "
        "images and labels (csv, tsv).",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder of its images.",
        show_default="beside the table",
        rich_help_panel=_PANEL,
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column that names the image.",
        show_default="the one whose cells are files",
        rich_help_panel=_PANEL,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of one label or a list.",
        show_default="label and the like",
        rich_help_panel=_PANEL,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="The columns of 0 and 1, one for each label.",
        show_default="all there are",
        rich_help_panel=_PANEL,
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Separates several labels in a cell.",
        show_default="| or ;",
        rich_help_panel=_PANEL,
    ),
]


def table_options(
    images: Path | None,
    image_column: str | None,
    label_column: str | None,
    columns: str | None,
    separator: str | None,
) -> TableOptions:
    """Turns the options into those of a table."""
    from limelens.train.data.tables.table import TableOptions

    names = tuple(name.strip() for name in (columns or "").split(","))
    return TableOptions(
        images,
        image_column or "",
        label_column or "",
        tuple(name for name in names if name),
        separator or "",
    )
