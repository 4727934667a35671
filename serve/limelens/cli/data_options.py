"""Options by which commands are told of labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder of label folders, or one that holds train, val (or validation) and test "
        "folders of them, or a table of labels (csv, tsv).",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the pictures of a table lie.",
        show_default="beside the table",
    ),
]
