"""`limelens classify` and `limelens explain`, by a server or by a model file in this process."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import typer
from PIL import Image
from rich.markup import escape

from limelens.cli.printing import AsJson, err, out, print_json
from limelens.serve.errors import InvalidRequestError, LimelensError, UnavailableError
from limelens.serve.image import Region

if TYPE_CHECKING:
    from limelens.serve.answers import Classification, LabelExplanation, ServedExplanation
    from limelens.serve.client import Client

DEFAULT_SERVER: Final = "127.0.0.1:8500"
_SHOWN_WEIGHTS: Final = 5
_MOST: Final = 2**31 - 1

Server = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Ask this server.", show_default=DEFAULT_SERVER),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="A model.onnx, answered in this process without a server; or the name of a model "
        "that the server has.",
    ),
]
Version = Annotated[int, typer.Option(min=0, help="Of the served model.", show_default="newest")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="For a model file in this process.")
]
RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="L,T,R,B",
        help="Look at this part only, in fractions of the upright picture: 0.25,0,0.75,0.6",
    ),
]


def classify(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", help="JPEG, PNG, WebP, BMP or GIF files.", show_default=False
        ),
    ],
    server: Server = None,
    model: Model = None,
    version: Version = 0,
    device: Device = "auto",
    region: RegionOption = None,
    top_k: Annotated[int, typer.Option(min=0, max=_MOST, help="Labels shown; 0: up to 5.")] = 0,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Abstain below this.", show_default="the model's own"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Says what is on pictures.

    A picture that cannot be read is reported, the others are answered, and the exit code is 1.

    Example: limelens classify door.jpg hall.png --model models/facemask/1/model.onnx
    """
    looked_at = parse_region(region)
    answers: list[dict[str, Any]] = []
    with open_client(server, model, device) as client:
        for image in images:
            try:
                found = client.classify(
                    image,
                    model=served_name(server, model),
                    version=version,
                    region=looked_at,
                    top_k=top_k,
                    threshold=threshold,
                )
            except UnavailableError:  # nobody answers, for the other pictures neither
                raise
            except LimelensError as error:
                answers.append({"path": str(image), "error": of_picture(error)})
            except OSError as error:
                answers.append({"path": str(image), "error": str(error.strerror or error)})
            else:
                answers.append(_answer(image, found))
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            _print_answer(answer)
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)


def explain(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="A JPEG, PNG, WebP, BMP or GIF file.", show_default=False
        ),
    ],
    server: Server = None,
    model: Model = None,
    version: Version = 0,
    device: Device = "auto",
    label: Annotated[
        list[str] | None,
        typer.Option(help="A label to explain; may be repeated.", show_default="the most probable"),
    ] = None,
    top_labels: Annotated[
        int,
        typer.Option(
            min=0, max=_MOST, help="Explain this many of the most probable.", show_default="1"
        ),
    ] = 0,
    overlay: Annotated[
        Path | None,
        typer.Option("--out", metavar="PNG", help="Write the overlay: green for, red against."),
    ] = None,
    heat_map: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write the weight of every pixel.")
    ] = None,
    region: RegionOption = None,
    segmentation: Annotated[
        Literal["slic", "quickshift", "felzenszwalb", "grid"] | None,
        typer.Option(help="How the picture is cut.", show_default="slic"),
    ] = None,
    num_segments: Annotated[
        int, typer.Option(min=0, max=_MOST, help="For slic and grid.", show_default="40")
    ] = 0,
    num_samples: Annotated[
        int,
        typer.Option(
            min=0, max=_MOST, help="Pictures that the model is shown.", show_default="1000"
        ),
    ] = 0,
    stability: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Sample until the top segments are this sure to come again."
        ),
    ] = None,
    hide: Annotated[
        str, typer.Option(help="mean, blur, or a colour such as 000000 instead of a segment.")
    ] = "mean",
    kernel_width: Annotated[
        float | None,
        typer.Option(help="Of the kernel that weighs near samples more.", show_default="0.25"),
    ] = None,
    distance: Annotated[
        Literal["cosine", "euclidean"] | None,
        typer.Option(help="Of a sample from the picture.", show_default="cosine"),
    ] = None,
    feature_selection: Annotated[
        Literal["none", "auto", "forward_selection", "highest_weights", "lasso_path"] | None,
        typer.Option(help="Which segments the surrogate may use.", show_default="none"),
    ] = None,
    num_features: Annotated[
        int,
        typer.Option(min=0, max=_MOST, help="Most segments in the surrogate.", show_default="all"),
    ] = 0,
    sampling: Annotated[
        Literal["paired", "independent"] | None,
        typer.Option(
            help="paired: every sample with its complement.", show_default="paired where that helps"
        ),
    ] = None,
    compat: Annotated[
        Literal["lime"] | None,
        typer.Option(help="The algorithm and the defaults of the lime package."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Of the samples; the same seed gives the same answer.",
            show_default="drawn, and told",
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Write the segment ids, 16 bit; 65535: never seen."),
    ] = None,
    segments_in: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Use these segments: 8 or 16 bit ids.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Says why a picture is what the model says, with LIME.

    Each weight is how much of the label's probability a segment brings, with its standard
    error; "stability" is how much of the top five would come again with another seed.

    Example: limelens explain door.jpg --out why.png --num-samples 2000
    """
    drawn: list[Literal["overlay", "heat_map", "segments"]] = []
    if overlay is not None:
        drawn.append("overlay")
    if heat_map is not None:
        drawn.append("heat_map")
    if segments is not None:
        drawn.append("segments")
    try:
        with open_client(server, model, device) as client:
            found = client.explain(
                image,
                model=served_name(server, model),
                version=version,
                labels=label or (),
                top_labels=top_labels,
                region=parse_region(region),
                segmentation=segmentation,
                num_segments=num_segments,
                num_samples=num_samples,
                stability=stability,
                hide=_hide(hide),
                kernel_width=kernel_width,
                distance=distance,
                feature_selection=feature_selection,
                num_features=num_features,
                sampling=sampling,
                compat=compat,
                seed=seed,
                segments=None if segments_in is None else segments_in.read_bytes(),
                pictures=drawn,
                timeout_s=600.0,
            )
        if overlay is not None:
            overlay.write_bytes(_one_picture(found, "overlay_png"))
        if heat_map is not None:
            heat_map.write_bytes(_one_picture(found, "heat_map_png"))
        if segments is not None:
            segments.write_bytes(found.segments_png)
    except OSError as error:
        raise LimelensError(f"{error.filename}: {error.strerror}") from error
    if as_json:
        print_json(_explanation(image, found))
        return
    _print_explanation(image, found)
    for written in (overlay, heat_map, segments):
        if written is not None:
            out.print(f"Wrote {escape(str(written))}")


def open_client(
    server: str | None, model: str | None, device: Literal["auto", "cpu", "cuda"]
) -> AbstractContextManager[Client]:
    """What answers: a model in this process where `--model` is a file, else the server."""
    if server is None and model is not None and _is_file(model):
        from limelens.serve.local import local_client

        return local_client(model, device)
    from limelens.serve.client import Client

    return Client(server or DEFAULT_SERVER)


def _is_file(model: str) -> bool:
    """Whether --model names a file or a folder, rather than a model of a server."""
    return model.endswith(".onnx") or "/" in model or Path(model).exists()


def served_name(server: str | None, model: str | None) -> str:
    """The model's name for requests; empty where it is the only one."""
    return "" if model is None or (server is None and _is_file(model)) else model


def parse_region(text: str | None) -> Region | None:
    """Reads `--region`: left, top, right, bottom as fractions."""
    if text is None:
        return None
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--region {text!r}; expected four fractions such as 0.25,0,0.75,0.6"
        ) from None
    try:
        return Region(left, top, right, bottom)
    except InvalidRequestError as error:
        raise typer.BadParameter(f"--region: {error.description}") from None


def _hide(text: str) -> Literal["mean", "blur"] | tuple[int, int, int]:
    if text == "mean":
        return "mean"
    if text == "blur":
        return "blur"
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        raise typer.BadParameter(
            f"--hide {text!r}; expected mean, blur or a colour such as 000000"
        ) from None
    return red, green, blue


def of_picture(error: LimelensError) -> str:
    """The reason alone where the picture is to blame, which the path names already."""
    if isinstance(error, InvalidRequestError) and error.field.startswith("images[0]"):
        return error.description
    return str(error)


def _answer(image: Path, found: Classification) -> dict[str, Any]:
    prediction = found[0]
    return {
        "path": str(image),
        "decision": prediction.decision.value,
        "label": prediction.label,
        "labels": list(prediction.labels),
        "alert": prediction.alert,
        "scores": [
            {"label": score.label, "probability": score.probability} for score in prediction.scores
        ],
        "threshold": prediction.threshold,
        "macro_label": prediction.macro_label,
        "model": found.model.name,
        "version": found.model.version,
        "provider": found.model.provider,
    }


def _print_answer(answer: dict[str, Any]) -> None:
    path = escape(answer["path"])
    if "error" in answer:
        err.print(f"{path}: [red]{escape(answer['error'])}[/]")
        return
    decided = answer["label"] or ", ".join(answer["labels"]) or "abstained"
    style = "bold red" if answer["alert"] else "bold"
    scores = "  ".join(
        f"{escape(score['label'])} {score['probability']:.3f}" for score in answer["scores"]
    )
    alert = " [red](alert)[/]" if answer["alert"] else ""
    out.print(f"{path}: [{style}]{escape(decided)}[/]{alert}   {scores}")


def _explanation(image: Path, found: ServedExplanation) -> dict[str, Any]:
    return {
        "path": str(image),
        "model": found.model.name,
        "version": found.model.version,
        "provider": found.model.provider,
        "num_segments": found.num_segments,
        "num_samples": found.num_samples,
        "seed": found.seed,
        "warnings": list(found.warnings),
        "explanations": [
            {
                "label": one.label,
                "probability": one.probability,
                "intercept": one.intercept,
                "local_prediction": one.local_prediction,
                "score": one.score,
                "stability": one.stability,
                "weights": [
                    {
                        "segment": weight.segment,
                        "weight": weight.weight,
                        "std_error": weight.std_error,
                    }
                    for weight in one.weights
                ],
            }
            for one in found.explanations
        ],
        "timings_ms": {
            "segment": found.timings_ms.segment,
            "predict": found.timings_ms.predict,
            "fit": found.timings_ms.fit,
            "total": found.timings_ms.total,
        },
    }


def _print_explanation(image: Path, found: ServedExplanation) -> None:
    model = f"{escape(found.model.name)} version {found.model.version}"
    out.print(f"{escape(str(image))}, explained on {model} ({found.model.provider})")
    for one in found.explanations:
        _print_label(one)
    timings = found.timings_ms
    out.print(
        f"{found.num_segments} segments, {found.num_samples} samples, seed {found.seed}; "
        f"{timings.total:.0f} ms (segments {timings.segment:.0f}, model {timings.predict:.0f}, "
        f"fit {timings.fit:.0f})"
    )
    for warning in found.warnings:
        err.print(f"[yellow]{escape(warning)}[/]")


def _print_label(one: LabelExplanation) -> None:
    out.print(
        f"[bold]{escape(one.label)}[/] {one.probability:.3f}   "
        f"fit (R2) {one.score:.2f}, stability {one.stability:.2f}"
    )
    for weight in one.weights[:_SHOWN_WEIGHTS]:
        style, word = ("green", "for") if weight.weight > 0 else ("red", "against")
        out.print(
            f"  segment {weight.segment:3d}  [{style}]{weight.weight:+.3f} {word}[/] "
            f"± {weight.std_error:.3f}"
        )


def _one_picture(found: ServedExplanation, kind: str) -> bytes:
    """The picture of the explained label; of several labels, one above the other."""
    files = [getattr(one, kind) for one in found.explanations]
    if len(files) == 1:
        return bytes(files[0])
    pictures = []
    for file in files:
        with Image.open(io.BytesIO(file)) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    written = io.BytesIO()
    Image.fromarray(np.concatenate(pictures)).save(written, "PNG")
    return written.getvalue()
