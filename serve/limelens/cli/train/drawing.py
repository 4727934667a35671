"""`limelens synthesize` and `limelens scenes`: images drawn by code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from limelens.cli.options.data_options import Seed
from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.printing import AsJson, out, print_json


def synthesize(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder to create and fill.", show_default=False, callback=writable_folder
        ),
    ],
    num_images: Annotated[
        int, typer.Option(min=10, help="Images of each of the two labels, over all splits.")
    ] = 500,
    close_up: Annotated[
        bool,
        typer.Option("--close-up", help="Faces that fill the image, with nothing but masks on."),
    ] = False,
    num_workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Draws faces with and without masks, to try everything out without data of your own."""
    from limelens.train.synthetic import write_dataset

    write_dataset(folder, num_images, seed, num_workers=num_workers, close_up=close_up)
    if as_json:
        print_json({"data": str(folder), "num_images_per_label": num_images, "seed": seed})
    else:
        out.print(f"Wrote {2 * num_images} images to {escape(str(folder))}.")


def scenes(
    data: Annotated[
        Path,
        typer.Argument(
            help="Data with splits and the labels with_mask and without_mask.", show_default=False
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder to create and fill.", callback=writable_folder)
    ],
    num_scenes: Annotated[int, typer.Option(min=0, help="Half-length scenes per face.")] = 2,
    hidden: Annotated[
        bool,
        typer.Option(
            "--hidden", help="Also add images with hidden segments, so that only the mask decides."
        ),
    ] = False,
    num_workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Makes a face-mask data set harder, with drawn masks, hands and scarves and smaller faces.

    Bare faces in collected sets are mostly tight crops, so a network may learn how much of a
    person is visible instead of the mask. Each detected bare face is added to train and val again,
    with and without a drawn mask; test stays unchanged.
    """
    from limelens.train.synthetic import add_scenes

    counts = add_scenes(
        data, folder, seed=seed, num_scenes=num_scenes, hidden=hidden, num_workers=num_workers
    )
    if as_json:
        print_json(
            {
                "data": str(folder),
                "seed": seed,
                "added": {split: count.images for split, count in counts.items()},
            }
        )
        return
    for split, count in counts.items():
        out.print(f"{split}: {count.images} images of {count.faces} faces added")
