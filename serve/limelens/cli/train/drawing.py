"""`limelens synthesize` and `limelens scenes`: images drawn by code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limelens.cli.terminal.printing import AsJson, out, print_json

if TYPE_CHECKING:
    pass


def synthesize(
    folder: Annotated[Path, typer.Argument(help="Made and filled.", show_default=False)],
    num_images: Annotated[
        int, typer.Option(min=10, help="Images of each of the two labels, all splits together.")
    ] = 500,
    num_workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Draws faces with and without masks, for trying out the whole chain without any data."""
    from limelens.train.synthetic import write_dataset

    write_dataset(folder, num_images, seed, num_workers=num_workers)
    if as_json:
        print_json({"data": str(folder), "num_images_per_label": num_images, "seed": seed})
    else:
        out.print(f"Wrote {2 * num_images} images to {escape(str(folder))}.")


def scenes(
    data: Annotated[
        Path,
        typer.Argument(
            help="Splits with the labels with_mask and without_mask.", show_default=False
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="Made and filled.")],
    num_scenes: Annotated[int, typer.Option(min=0, help="Half-length scenes of each face.")] = 2,
    hidden: Annotated[
        bool,
        typer.Option("--hidden", help="Also with segments hidden, so that the mask decides."),
    ] = False,
    num_workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same result.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Makes a face-mask set harder: the same faces with masks, hands, scarves, at half length.

    In collected sets bare faces are mostly tight crops, so that a network learns how much of a
    person it sees. Each bare face that is found is added again, with and without a drawn mask,
    to train and val; test stays as it is.
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
