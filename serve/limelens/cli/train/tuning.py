"""`limelens tune-explanations`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.options.output_options import writable_file
from limelens.cli.terminal.printing import AsJson, ImageBar, err, out, print_json

if TYPE_CHECKING:
    from limelens.train.exporting.explain_settings import Tuning


def tune_explanations(
    bundle: Annotated[
        Path,
        typer.Argument(help="model.onnx, or the folder of a version.", show_default=False),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder of images that the model was not trained on: of its split val, if it "
            "has splits.",
            show_default=False,
        ),
    ],
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write the bundle here, and leave the old one as it is.",
            show_default="in place of the bundle",
            callback=writable_file,
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option("--images", min=5, help="Images to explain at most.")
    ] = 24,
    num_samples: Annotated[int, typer.Option(min=10, help="Samples of each explanation.")] = 1000,
    max_seconds: Annotated[
        float, typer.Option(min=1.0, help="After this time no further image begins.")
    ] = 600.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the samples, and of which images are taken.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Finds the explanation settings that suit a model, and writes them into its bundle.

    Every candidate explains the images twice. Its gain is how much sooner the probability falls
    when segments are hidden in its order, and rises when they are shown, than in a random order;
    the highest wins, and among those within its standard error the one whose explanations say
    little least often.

    24 images are more than 400 explanations, which takes minutes; fewer (--images) take less.

    The bundle's graph stays the same; its signature, if it has one, no longer fits.

    Example: limelens tune-explanations models/photos/1 photos
    """
    from limelens.serve.bundle import load_bundle
    from limelens.serve.bundle.signatures import SIGNATURE_NAME
    from limelens.train.exporting.explain_settings import tune
    from limelens.train.exporting.settings_in_bundle import spread_over, write_settings

    loaded = load_bundle(bundle)
    path = loaded.path if out_path is None else out_path
    if not dry_run:
        writable_file(path)
    with ImageBar() as bar:
        found = tune(
            loaded,
            spread_over(data, num_images, seed),
            num_samples=num_samples,
            max_s=max_seconds,
            seed=seed,
            notify=bar.done,
        )
    if not dry_run:
        write_settings(loaded.path, found.chosen, path)
    if as_json:
        print_json(
            {
                "path": None if dry_run else str(path),
                "settings": found.chosen.to_json(),
                "seconds": found.seconds,
            }
        )
    else:
        _print(found)
        if not dry_run:
            out.print(f"Wrote [bold]{escape(str(path))}[/].")
    if not dry_run and path.with_name(SIGNATURE_NAME).exists():
        err.print(
            f"[yellow]{SIGNATURE_NAME} beside it no longer fits: sign it again (limelens sign).[/]"
        )


def _print(found: Tuning) -> None:
    """The candidates as a table of at most 80 columns."""
    from limelens.explain.settings import DEFAULT_NUM_SEGMENTS

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("hide", "segments", "deletion", "insertion", "R2", "stability", "little", "ms"):
        table.add_column(title, justify="left" if title == "hide" else "right", no_wrap=True)
    for place, one in enumerate(found.measured):
        options = one.settings
        hide = (
            "#{:02x}{:02x}{:02x}".format(*options.hide)
            if isinstance(options.hide, tuple)
            else (options.hide or "mean")
        )
        cut = f"{options.segmentation or 'slic'} {options.num_segments or DEFAULT_NUM_SEGMENTS}"
        pairs = (one.deletion, one.insertion, one.score, one.stability)
        table.add_row(
            hide,
            cut,
            *(f"{mean:.2f}±{error:.2f}" for mean, error in pairs),
            f"{one.little[0]:.0%}",
            f"{one.ms[0]:.0f}",
            style="bold" if place == found.place else None,
        )
    out.print(table)
    out.print(
        f"means and standard errors over {found.num_images} images, {found.num_samples} samples; "
        f"{found.seconds:.0f} s"
    )
    out.print("deletion, insertion: how much better the areas are than in random order")
    out.print("little: the share of explanations that say little")
    out.print(f"Chosen: {escape(found.chosen.describe())}.")
