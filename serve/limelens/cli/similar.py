"""`limelens index` and `limelens similar`: similar images, by the model's embedding."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.classifying import (
    STDIN,
    Device,
    ModelOption,
    RegionOption,
    ServerOption,
    Version,
    image_of,
    of_image,
    open_client,
    parse_region,
    served_name,
)
from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, OF_THE_SERVER, Credentials, securely
from limelens.cli.options.face_options import DetectorOption, face_blurrer, face_option
from limelens.cli.options.output_options import IMAGE, image_file, writable_file
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import AsJson, ImageBar, err, out, print_json, print_next
from limelens.serve.errors import LimelensError
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer
    from limelens.serve.tools.similar import Made, Neighbour

_MOST_SHOWN = 10


@securely
def index(
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder of images, or of label folders, or of train, val and test folders of "
            "these.",
            show_default=False,
        ),
    ],
    path: Annotated[
        Path,
        option(
            "The file to write.",
            "--out",
            metavar="INDEX",
            show_default=False,
            callback=writable_file,
        ),
    ],
    server: ServerOption = None,
    model: ModelOption = None,
    version: Version = 0,
    device: Device = "auto",
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Makes a folder of images searchable by limelens similar.

    Images that cannot be read are left out and listed.

    Example: limelens index photos --model models/photos/1/model.onnx --out photos.index
    """
    from limelens.serve.tools.similar import index_folder, save_index

    began = time.monotonic()
    with open_client(server, model, device, credentials) as client, ImageBar() as bar:
        found = index_folder(
            client, data, model=served_name(server, model), version=version, progress=bar.done
        )
    save_index(found.index, path)
    made = found.index.made
    report: dict[str, Any] = {
        "index": str(path),
        "data": made.data,
        "model": made.model,
        "version": made.version,
        "digest": made.digest,
        "embedding_size": made.embedding_size,
        "num_images": len(found.index),
        "labels": found.index.label_counts(),
        "exact": found.index.is_exact,
        "skipped": [{"path": one.path, "reason": one.reason} for one in found.skipped],
        "seconds": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(report)
    else:
        _print_index(
            report, f" --server {server}" if server else f" --model {model}" if model else ""
        )


@securely
def similar(
    index_file: Annotated[
        Path,
        typer.Argument(
            metavar="INDEX", help="A file that limelens index wrote.", show_default=False
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="JPEG, PNG, WebP, BMP or GIF files, or - for standard input.",
            show_default=False,
        ),
    ],
    k: Annotated[int, option("Neighbours of each image.", "--k", "-k", min=1)] = 5,
    server: ServerOption = None,
    model: ModelOption = None,
    version: Annotated[int, option("Version of the model.", min=0, show_default="the index's")] = 0,
    device: Device = "auto",
    region: RegionOption = None,
    sheet: Annotated[
        Path | None,
        option(
            "Write a sheet of each image and its neighbours.",
            metavar=IMAGE,
            callback=image_file(),
        ),
    ] = None,
    data: Annotated[
        Path | None,
        option("The folder of the indexed images, for --sheet.", show_default="as indexed"),
    ] = None,
    blur_faces: Annotated[
        bool, face_option("Blur every face on the sheet.", "--blur-faces")
    ] = False,
    face_detector: DetectorOption = DEFAULT_DETECTOR,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Finds the images of an index that are most similar to the given ones.

    The model must be the one that the index was made with; from a server it is chosen
    automatically. Similarity is the cosine between the feature vectors, without what all indexed
    images share: 1 is the same image, and 0 is no more alike than any two.

    Example: limelens similar photos.index coat.jpg --model models/photos/1/model.onnx
    """
    from limelens.serve.tools.similar import load_index

    if STDIN in images and (len(images) > 1 or sheet is not None):
        raise typer.BadParameter("- is for one image, without --sheet")
    if blur_faces and sheet is None:
        raise typer.BadParameter("--blur-faces without an image to write; expected --sheet too")
    looked_at = parse_region(region)
    found = load_index(index_file)
    name = served_name(server, model)
    if not name:  # a server must use the very model; a file needs no name
        name, version = found.made.model, version or found.made.version
    answers: list[dict[str, Any]] = []
    beside = ByProducts()
    with open_client(server, model, device, credentials, face_detector) as client:
        for image in images:
            try:
                asked = client.embed(
                    image_of(image), model=name, version=version, region=looked_at, normalize=True
                )
            except OF_THE_SERVER:  # the other images would fail too
                raise
            except LimelensError as error:
                answers.append({"path": str(image), "error": of_image(error)})
            except OSError as error:
                answers.append({"path": str(image), "error": str(error.strerror or error)})
            else:
                found.check_model(asked.model.name, asked.model.version, asked.model_digest)
                (neighbours,) = found.search(asked.vectors, k)
                answers.append(_answer(image, index_file, found.made, neighbours))
        if sheet is not None and any("neighbours" in answer for answer in answers):
            blurrer = face_blurrer(client, blur_faces=blur_faces, model=name, version=version)
            with beside.writing(sheet):
                _draw(answers, data or Path(found.made.data), sheet, blurrer)
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            _print_answer(answer)
    beside.report(as_json=as_json)
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)


def _answer(
    image: Path, index_file: Path, made: Made, neighbours: Sequence[Neighbour]
) -> dict[str, Any]:
    return {
        "path": str(image),
        "index": str(index_file),
        "model": made.model,
        "version": made.version,
        "neighbours": [
            {"path": one.path, "label": one.label, "similarity": one.similarity}
            for one in neighbours
        ],
    }


def _draw(
    answers: Sequence[dict[str, Any]], data: Path, sheet: Path, blurrer: FaceBlurrer | None
) -> None:
    from limelens.explain.drawing.fonts import MissingFontWarning
    from limelens.serve.tools.similar.sheet import Panel, write_sheet

    rows = [
        (
            Panel(Path(answer["path"]), (Path(answer["path"]).name, "query")),
            [
                Panel(
                    data / one["path"],
                    (one["label"] or Path(one["path"]).name, f"{one['similarity']:.4f}"),
                )
                for one in answer["neighbours"]
            ],
        )
        for answer in answers
        if "neighbours" in answer
    ]
    with warnings.catch_warnings(record=True, category=MissingFontWarning) as found:
        warnings.simplefilter("always", MissingFontWarning)
        missing = (
            write_sheet(rows, sheet) if blurrer is None else write_sheet(rows, sheet, blurrer.blur)
        )
    if found:
        err.print(f"[yellow]{escape(str(found[0].message))}[/]")
    if missing:
        err.print(
            f"[yellow]{len(missing)} images could not be read for the sheet, such as "
            f"{escape(str(missing[0]))}; where they have moved, name the folder with --data[/]"
        )


def _print_index(report: dict[str, Any], options: str) -> None:
    """`options` say who embeds."""
    labels = f" of {counted(len(report['labels']), 'label')}" if report["labels"] else ""
    out.print(
        f"Wrote [bold]{escape(report['index'])}[/]: {report['num_images']} images{labels} in "
        f"{report['embedding_size']} numbers each, by {escape(report['model'])} version "
        f"{report['version']}; {report['seconds']:.0f} s"
    )
    skipped = report["skipped"]
    for one in skipped[:_MOST_SHOWN]:
        err.print(f"left out {escape(one['path'])}: {escape(one['reason'])}")
    if len(skipped) > _MOST_SHOWN:
        err.print(f"and {len(skipped) - _MOST_SHOWN} more; --json lists all")
    print_next(f"limelens similar {report['index']} IMAGE{options}")


def _print_answer(answer: dict[str, Any]) -> None:
    if "error" in answer:
        err.print(f"{escape(answer['path'])}: [red]{escape(answer['error'])}[/]")
        return
    out.print(f"most like {escape(answer['path'])}", style="italic")
    table = Table(box=None, pad_edge=False)
    table.add_column("similarity", justify="right")
    table.add_column("label")
    table.add_column("image")
    for one in answer["neighbours"]:
        table.add_row(
            f"{one['similarity']:.4f}", Folded(escape(one["label"])), Folded(escape(one["path"]))
        )
    out.print(table)
