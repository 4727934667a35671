"""`limelens export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.printing import AsJson, ImageBar, err, print_json, print_next
from limelens.cli.train.exported import print_exported
from limelens.cli.train.for_triton import export_bundles, is_bundle, print_written
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.bundle.explain_defaults import ExplainDefaults


def export(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run's folder or a .pt checkpoint. With --triton also a bundle, or the folder "
            "of a version, a model or a model repository.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="The model's name in the repository; needed for a run.",
            show_default="that of the bundle",
        ),
    ] = None,
    models: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="The training data, if it was moved.", show_default="where the run read it"
        ),
    ] = None,
    note: Annotated[str, typer.Option(help="A sentence for the model card.")] = "",
    data_name: Annotated[
        str, typer.Option(help="What the training data is called, for the card and the bundle.")
    ] = "",
    data_license: Annotated[
        str,
        typer.Option(
            help="The licence of the training data.", show_default="first line of DATA/LICENSE"
        ),
    ] = "",
    limits: Annotated[
        str,
        typer.Option(
            metavar="TEXT|FILE",
            help="What the model must not be used for, for the card and the bundle.",
            show_default="DATA/LIMITS.md",
        ),
    ] = "",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="fp16 and int8 are smaller; int8 is calibrated on training images."),
    ] = "fp32",
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Percentage points of validation accuracy (multilabel: mean average precision) "
            "that fp16 or int8 may lose.",
        ),
    ] = 0.5,
    wanted_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Abstain below a threshold, chosen so that this share of the decided validation "
            "images is correct.",
            show_default="never abstain",
        ),
    ] = None,
    crop_margin: Annotated[
        str | None,
        typer.Option(
            metavar="FLOAT|auto",
            help="For a model about faces: what it sees on each side of a face's box, as a "
            "fraction of the box, 0 to 2. auto finds faces in the validation images, and takes the "
            "smallest margin among the best.",
            show_default="0.35, when faces are looked for",
        ),
    ] = None,
    golden_images: Annotated[
        int,
        typer.Option(
            min=0,
            max=256,
            help="Validation images that travel in the bundle, for `limelens serve --hold-back`. "
            "Whoever has the file can see them; 0 if they are private.",
        ),
    ] = 64,
    golden_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled images to take golden images from, such as drawn ones.",
            show_default="the validation images",
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Export a model that is no better than guessing, too."),
    ] = False,
    explain_settings: Annotated[
        str,
        typer.Option(
            metavar="auto|none|FILE",
            help="How the model is explained by default: chosen on a few validation images (within "
            "a minute, or left out), not said, or as a JSON file says, such as "
            '{"hide": "blur", "num_segments": 30}.',
        ),
    ] = "auto",
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write it into this model repository of Triton, or only that if the source "
            "is a bundle: the same file, with a config.pbtxt, labels and a warm-up.",
            callback=writable_folder,
            show_default="not written",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes a run as a bundle: models/NAME/VERSION/model.onnx.

    The graph includes normalisation, softmax and calibration. It is written only if it agrees with
    the PyTorch network on the validation images. fp16 and int8 are converted from it and written
    only if they keep its accuracy; their size and speed are compared with fp32.

    Example: limelens export runs/photos --name photos

    For a Triton server: limelens export models/photos --triton triton
    """
    if is_bundle(source):
        export_bundles(context, source, triton, name, as_json=as_json)
        return
    crop, explain = _crop(crop_margin), _explain(explain_settings)
    from limelens.train.runs import check_run

    # Checked before torch is loaded, which takes seconds.
    check_run(source)
    if name is None:
        raise typer.BadParameter("expected the model's name", param_hint="--name")
    writable_folder(models / name)
    from limelens.train.exporting.about_data import About
    from limelens.train.exporting.export import export as run_export

    if limits and Path(limits).is_file():
        limits = Path(limits).read_text(encoding="utf-8")
    with _SettingsBar() as bar:
        report = run_export(
            source,
            name,
            models=models,
            data=data,
            note=note,
            precision=precision,
            max_accuracy_drop=max_accuracy_drop,
            wanted_accuracy=wanted_accuracy,
            crop=crop,
            anyway=anyway,
            num_golden_images=golden_images,
            golden_data=golden_data,
            about=About(data_name, data_license, limits),
            explain=explain,
            notify=bar.done,
        )
    written = []
    if triton is not None:
        from limelens.serve.tools.triton.repository import write_models

        written = write_models(Path(report["path"]), triton)
        report["triton"] = [model.to_json() for model in written]
    if as_json:
        print_json(report)
    else:
        print_exported(report, golden_data)
        print_next(f"limelens serve --models {models}")
        if triton is not None:
            print_written(written, triton)


class _SettingsBar(ImageBar):
    """Says that explanation settings are looked for, and shows on how many images."""

    def done(self, num_done: int, num_all: int) -> None:
        if num_done == 0:
            err.print(
                f"Looking for the explanation settings that suit it, on {counted(num_all, 'image')}"
                "; --explain-settings none leaves that out."
            )
        super().done(num_done, num_all)


def _explain(text: str) -> ExplainDefaults | Literal["auto"] | None:
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    from limelens.serve.bundle.explain_defaults import ExplainDefaults
    from limelens.serve.client.requests import read_file

    data = read_file(text, "auto, none, or a JSON file of settings")
    try:
        return ExplainDefaults.from_json(json.loads(data))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text}: no JSON: {error}", param_hint="--explain-settings"
        ) from None


def _crop(text: str | None) -> float | Literal["auto"] | None:
    # onnx, which it imports, takes long to load for a command that only prints its help.
    from limelens.serve.bundle.metadata import MAX_CROP

    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        margin = float(text)
    except ValueError:
        margin = -1.0
    if not 0 <= margin <= MAX_CROP:
        raise typer.BadParameter(
            f"{text!r}; expected auto, or a number from 0 to {MAX_CROP:g}",
            param_hint="--crop-margin",
        )
    return margin
