"""`limelens inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.options.data_options import Data, DataTable, Seed, with_table_options
from limelens.cli.options.output_options import writable_file
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.train.audit.inspection import Inspection

_MOST_SHOWN = 10
_KINDS: Final = {"bytes": "exact", "pixels": "exact", "near": "near", "cropped": "cropped"}
"""Kinds of duplicates in words."""


@with_table_options
def inspect(
    data: Data,
    table: DataTable = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_OR_MODEL",
            help="Judge labels by the features of this model.",
            show_default="colours and gradients",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="HTML",
            help="Also write a page with images.",
            callback=writable_file,
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Finds problems in data before training.

    Reports the number and balance of labels, image sizes, whether a size alone gives the label
    away, duplicates (also resized, mirrored or cropped) inside and across splits and with different
    labels, broken files, and labels that look wrong (found by cleanlab). It changes nothing.

    Example: limelens inspect photos --out photos.html
    """
    from limelens.train.data.listing import list_data
    from limelens.train.runs import check_run_or_model

    # Checked before scikit-learn is loaded, which takes seconds.
    if run is not None:
        check_run_or_model(run)
    list_data(data, table)
    from limelens.train.audit.inspection import inspect as run_inspection

    inspection = run_inspection(data, images=table, run_or_model=run, seed=seed)
    if page is not None:
        from limelens.train.report.page import write_inspection

        write_inspection(inspection, page)
    if as_json:
        print_json(inspection.to_json())
        return
    _print_inspection(inspection)
    if page is not None:
        out.print(f"Wrote {escape(str(page))}")


def _balance(inspection: Inspection) -> str:
    totals = inspection.totals
    most, least = totals[inspection.commonest], totals[inspection.rarest]
    if most == least:
        return f"{most} of each"
    return f"{escape(inspection.commonest)} {most}, {escape(inspection.rarest)} {least}"


def _print_inspection(inspection: Inspection) -> None:
    counts = ", ".join(
        f"{count} {'undivided' if split == 'all' else split}"
        for split, count in inspection.num_images.items()
    )
    out.print(
        f"[bold]{sum(inspection.num_images.values())}[/] images ({counts}), "
        f"{counted(len(inspection.labels), 'label')}: {_balance(inspection)}"
    )
    if inspection.num_smaller:
        out.print(f"{inspection.num_smaller} are smaller than {_input(inspection)}")
    for shortcut in inspection.shortcuts:
        if shortcut.telling:
            of = f" {escape(shortcut.label)}" if shortcut.label else ""
            out.print(
                f"[yellow]The {shortcut.feature} alone gives the label{of} away: "
                f"{shortcut.accuracy:.1%} correct, the commonest label {shortcut.majority:.1%}[/]"
            )
    _print_duplicates(inspection)
    for skipped in inspection.unreadable[:_MOST_SHOWN]:
        err.print(f"cannot be read: {escape(str(skipped.path))}: {escape(skipped.reason)}")
    if len(inspection.unreadable) > _MOST_SHOWN:
        err.print(f"and {len(inspection.unreadable) - _MOST_SHOWN} more that cannot be read")
    if inspection.unused:
        err.print(
            f"{counted(len(inspection.unused), 'file')} not read as images, such as "
            f"{escape(str(inspection.unused[0]))}"
        )
    _print_suspects(inspection)
    if absent := _not_found(inspection):
        out.print(f"Looked for and not found: {', '.join(absent)}")


def _input(inspection: Inspection) -> str:
    height, width = inspection.input_size
    return f"the input of {width}x{height}"


def _not_found(inspection: Inspection) -> list[str]:
    """What was looked for in vain, in words."""
    pairs, shortcuts = inspection.duplicates, inspection.shortcuts
    kinds = {_KINDS[pair.kind] for pair in pairs}
    absent = {
        f"images smaller than {_input(inspection)}": not inspection.num_smaller,
        "sizes that give labels away": shortcuts and not any(one.telling for one in shortcuts),
        "duplicates": not pairs,
        **{f"{kind} duplicates": pairs and kind not in kinds for kind in _KINDS.values()},
        "duplicates across splits": pairs
        and len(inspection.num_images) > 1
        and not any(pair.cross_splits for pair in pairs),
        "duplicates with different labels": pairs
        and not any(pair.differ_in_label for pair in pairs),
        "unreadable images": not inspection.unreadable,
        f"wrong labels ({_judge(inspection)})": inspection.judge_accuracy is not None
        and not inspection.suspects,
    }
    return [words for words, is_absent in absent.items() if is_absent]


def _print_duplicates(inspection: Inspection) -> None:
    pairs = inspection.duplicates
    if not pairs:
        return
    kinds = Counter(_KINDS[pair.kind] for pair in pairs)
    harms = {
        "across splits": sum(pair.cross_splits for pair in pairs),
        "with different labels": sum(pair.differ_in_label for pair in pairs),
    }
    groups = [
        [f"{kinds[kind]} {kind}" for kind in dict.fromkeys(_KINDS.values()) if kinds[kind]],
        [f"{number} {harm}" for harm, number in harms.items() if number],
    ]
    out.print(f"Duplicates: {'; '.join(', '.join(group) for group in groups if group)}")
    harmful = [pair for pair in pairs if pair.differ_in_label or pair.cross_splits]
    shown = sorted(harmful, key=lambda pair: not pair.differ_in_label)[:_MOST_SHOWN]
    for pair in shown:
        sides = " and ".join(
            f"{_short(place.path, inspection)} ({', '.join(place.labels) or 'none'})"
            for place in (pair.first, pair.second)
        )
        out.print(f"  {escape(sides)}")
    if others := len(pairs) - len(shown):
        rest = counted(others, "more pair" if shown else "pair")
        out.print(f"  {rest}: --out HTML shows such pairs, --json lists all")


def _print_suspects(inspection: Inspection) -> None:
    if inspection.judge_accuracy is None:
        out.print("Labels could not be checked: too few images, or too hard to tell apart")
        return
    if not inspection.suspects:
        return
    weak = ", which is too many: most will be false alarms" if inspection.is_judge_weak else ""
    out.print(f"Labels that look wrong: {len(inspection.suspects)} ({_judge(inspection)}{weak})")
    table = Table(box=None, pad_edge=False)
    for column in ("image", "given", "looks like"):
        table.add_column(column)
    table.add_column("quality", justify="right")
    for suspect in inspection.suspects[:_MOST_SHOWN]:
        table.add_row(
            Folded(escape(_short(suspect.place.path, inspection))),
            Folded(escape(", ".join(suspect.place.labels) or "none")),
            Folded(escape(", ".join(suspect.suggested) or "none")),
            f"{suspect.score:.4f}",
        )
    out.print(table)


def _judge(inspection: Inspection) -> str:
    by = f"checked by {escape(inspection.checked_by)}"
    if inspection.judge_accuracy is None:
        return by
    return f"{by}, right {inspection.judge_accuracy:.1%} of the time"


def _short(path: Path, inspection: Inspection) -> str:
    is_below = path.is_relative_to(inspection.data)
    return str(path.relative_to(inspection.data) if is_below else path)
