"""Reads and writes `groups.csv`: groups of images that only people know, or who drew them.

For example the camera, the site or the skin tone. Knows tables, and not what is done with groups.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from limelens.serve.files import write_whole
from limelens.train.data.examples import DataError
from limelens.train.data.tables.table import IMAGE_NAMES, read_lines

GROUPS_FILE: Final = "groups.csv"


def read_groupings(data: Path, paths: Sequence[Path]) -> dict[str, list[str]]:
    """The groupings in `groups.csv` of a data folder: the group of each image, empty if unknown.

    Its first line names the columns: one of images (`image`, `path`, `file`, …), by their paths in
    the folder, and one for each grouping.

    Raises:
        DataError: The table cannot be read or has no column of images.
    """
    folder = data if data.is_dir() else data.parent
    table = folder / GROUPS_FILE
    if not table.is_file():
        return {}
    (_, header), *lines = read_lines(table)
    named = next((i for i, name in enumerate(header) if name.strip().lower() in IMAGE_NAMES), None)
    if named is None:
        raise DataError(
            f"{table} has the columns {', '.join(header)}; expected one of images, such as image"
        )
    rows = {cells[named].strip(): cells for _, cells in lines if len(cells) > named}
    names = [path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
             for path in paths]  # fmt: skip
    return {
        name.strip(): [
            rows[image][column].strip() if image in rows and column < len(rows[image]) else ""
            for image in names
        ]
        for column, name in enumerate(header)
        if column != named and name.strip()
    }


def write_groups(data: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Writes the table into a data folder; a grouping that an image has not is left empty.

    Args:
        data: The folder.
        rows: The group by grouping, by the path of an image in the folder, with forward slashes.
    """
    names = list(dict.fromkeys(name for groups in rows.values() for name in groups))
    with io.StringIO(newline="") as table:
        writer = csv.DictWriter(table, ["image", *names], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"image": image, **groups} for image, groups in rows.items())
        write_whole(data / GROUPS_FILE, table.getvalue())
