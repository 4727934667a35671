"""The options that all bulk commands share: the input, the model, the output, the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from limelens.cli.options import in_place_of, option
from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.printing import AsJson

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A folder of images; Parquet with a column of images, or of their paths or URLs; "
        "WebDataset's .tar shards; a folder of either, or a pattern such as 'shards/*.tar'.",
        show_default=False,
    ),
]
Model = Annotated[str, option("The model: its model.onnx, or the folder with it.", metavar="FILE")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    option("Where the model runs; on GPUs each worker needs one."),
]


def _work_option(help_: str, *names: str, **given: Any) -> Any:
    return option(help_, *names, rich_help_panel="Input, output and workers", **given)


@dataclass(frozen=True)
class Run:
    """Where the rows go, and who makes them."""

    out: Path
    column: str
    workers: int
    threads: int
    address: str | None
    images_per_file: int
    restart: bool
    as_json: bool


def read_run(
    out: Annotated[
        Path,
        _work_option(
            "The folder of the output: Parquet files with one row for each image.",
            "--out",
            metavar="FOLDER",
            show_default=False,
            callback=writable_folder,
        ),
    ],
    column: Annotated[
        str,
        _work_option("Of Parquet: the column to read.", metavar="NAME", show_default="usual names"),
    ] = "",
    workers: Annotated[
        int,
        _work_option(
            "Processes at once, each with the model.",
            min=0,
            show_default="one for each GPU, or each core",
        ),
    ] = 0,
    threads: Annotated[
        int,
        _work_option(
            "Threads of each process.", min=0, show_default="1, or a GPU's share of the cores"
        ),
    ] = 0,
    address: Annotated[
        str | None,
        _work_option(
            "A Ray cluster to work on: HOST:PORT or auto, on a machine of it. "
            "INPUT and --out must be on storage that all machines share.",
            metavar="ADDRESS",
            show_default="this machine",
        ),
    ] = None,
    images_per_file: Annotated[
        int,
        _work_option(
            "Images in a file of the output; a worker that is killed repeats as many.",
            min=0,
            show_default="512, of explanations 32",
        ),
    ] = 0,
    restart: Annotated[
        bool, _work_option("Remove what is in --out, and begin again.", "--restart")
    ] = False,
    as_json: AsJson = False,
) -> Run:
    """Turns the options into one value."""
    return Run(out, column, workers, threads, address, images_per_file, restart, as_json)


with_run: Final = in_place_of("run", read_run)
"""Gives a command the options of `read_run`, in place of its `run`."""
