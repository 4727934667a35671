"""Options for labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from limelens.train.data.tables.table import TableOptions

_PANEL: Final = "If DATA is a table"


def _option(*names: str, **given: Any) -> Any:
    """An option in the panel that all these options share."""
    return typer.Option(*names, rich_help_panel=_PANEL, **given)


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
    _option(metavar="FOLDER", help="The folder of its images.", show_default="beside the table"),
]
ImageColumn = Annotated[
    str | None,
    _option(
        metavar="NAME",
        help="The column that names the image.",
        show_default="the one whose cells are files",
    ),
]
LabelColumn = Annotated[
    str | None,
    _option(
        metavar="NAME", help="The column of one label or a list.", show_default="label and the like"
    ),
]
Columns = Annotated[
    str | None,
    _option(
        metavar="A,B,…",
        help="The columns of 0 and 1, one for each label.",
        show_default="all there are",
    ),
]
Separator = Annotated[
    str | None,
    _option(metavar="TEXT", help="Separates several labels in a cell.", show_default="| or ;"),
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
