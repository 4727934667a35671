"""`limelens explain`: why the model decides as it does, for one image or many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast, get_args

import typer

from limelens.cli.classifying import (
    STDIN,
    Device,
    ModelOption,
    RegionOption,
    ServerOption,
    Version,
    image_of,
    open_client,
    parse_region,
    served_name,
)
from limelens.cli.explain.drawings import draw_steps, palette_of, redrawn, stacked
from limelens.cli.explain.explanations import (
    explanation_document,
    print_check,
    print_explanation,
    print_line,
    sample_bar,
)
from limelens.cli.explain.several import explain_several
from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, Credentials, securely
from limelens.cli.options.face_options import (
    NO_FACES,
    BlurFaces,
    DetectorOption,
    Faces,
    face_blurrer,
    face_option,
    with_faces,
)
from limelens.cli.options.output_options import IMAGE, image_file, writable_file
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.printing import AsJson, err, print_json
from limelens.serve.errors import InvalidRequestError, LimelensError
from limelens.serve.faces.options import DEFAULT_DETECTOR, MAX_FACES
from limelens.serve.image import read_image
from limelens.serve.image.writing import write_encoded

if TYPE_CHECKING:
    from limelens.explain import Faithfulness
    from limelens.serve.client import Client, ExplainArguments
    from limelens.serve.client.in_process import LocalClient
    from limelens.serve.client.requests import Hide
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

_MOST: Final = 2**31 - 1
_TIMEOUT_S: Final = 600.0
_PASSED_ON: Final = (
    "version", "top_labels", "method", "segmentation", "num_segments", "num_samples", "num_fills",
    "stability", "max_samples", "deadline_ms", "kernel_width", "distance", "feature_selection",
    "num_features", "sampling", "compat", "seed", "palette",
)  # fmt: skip
OWN: Final = "as the model's bundle says, else {}"
_RENDERINGS: Final[Mapping[str, Literal["overlay", "heat_map", "segments"]]] = {
    "--out": "overlay",
    "--heat-map": "heat_map",
    "--segments": "segments",
}


def _option(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=default)


def _count(text: str, default: str) -> Any:
    return typer.Option(min=0, max=_MOST, help=text, show_default=default)


def _written(text: str, *names: str) -> Any:
    return option(text, *names, metavar=IMAGE, callback=image_file())


@securely
@with_faces
def explain(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="JPEG, PNG, WebP, BMP or GIF files, or folders of them, or - for one on "
            "standard input.",
            show_default=False,
        ),
    ],
    server: ServerOption = None,
    model: ModelOption = None,
    version: Version = 0,
    device: Device = "auto",
    label: Annotated[
        list[str] | None,
        option("A label to explain; may be repeated.", show_default="the most probable"),
    ] = None,
    top_labels: Annotated[int, _count("Explain this many of the most probable.", "1")] = 0,
    contrast: Annotated[
        list[str] | None,
        option("Explain why the first and not the second; may be repeated.", metavar="LABEL,LABEL"),
    ] = None,
    overlay: Annotated[
        Path | None, _written("Write the overlay: green for, red against.", "--out")
    ] = None,
    heat_map: Annotated[Path | None, _written("Write the weight of every pixel.")] = None,
    steps: Annotated[
        Path | None, _written("Draw the steps that led to the explanation; needs --model FILE.")
    ] = None,
    report: Annotated[
        Path | None,
        option(
            "Write a page of all images and why, mistakes first where folders are named "
            "like labels.",
            metavar="HTML",
            callback=writable_file,
        ),
    ] = None,
    check: Annotated[
        bool,
        option(
            "Also measure how far the model follows the explanation, compared with a random "
            "order; needs --model FILE.",
            "--check",
        ),
    ] = False,
    region: RegionOption = None,
    method: Annotated[
        Literal["lime", "kernel_shap", "occlusion", "rise"] | None,
        _option("How segments are weighed.", OWN.format("lime")),
    ] = None,
    segmentation: Annotated[
        Literal["slic", "quickshift", "felzenszwalb", "grid"] | None,
        _option("How the image is cut.", OWN.format("slic")),
    ] = None,
    num_segments: Annotated[int, _count("For slic and grid.", OWN.format(40))] = 0,
    num_samples: Annotated[int, _count("Images that the model predicts.", OWN.format(1000))] = 0,
    stability: Annotated[
        float | None,
        option("Sample until this share of the top segments would recur.", min=0.0, max=1.0),
    ] = None,
    max_samples: Annotated[
        int, _count("The most samples for --stability.", "as --num-samples")
    ] = 0,
    deadline_ms: Annotated[
        int, _count("Milliseconds after which the best explanation so far is returned.", "none")
    ] = 0,
    hide: Annotated[
        str | None,
        _option(
            "Fill of hidden segments: mean, blur, shuffle, references, or a colour (000000).",
            OWN.format("mean"),
        ),
    ] = None,
    num_fills: Annotated[
        int, _count("Fills for each row of hidden segments.", "6 for references, else 1")
    ] = 0,
    kernel_width: Annotated[
        float | None, _option("Width of the proximity kernel.", OWN.format(0.25))
    ] = None,
    distance: Annotated[
        Literal["cosine", "euclidean"] | None, _option("From a sample to the image.", "cosine")
    ] = None,
    feature_selection: Annotated[
        Literal["none", "auto", "forward_selection", "highest_weights", "lasso_path"] | None,
        _option("Which segments the surrogate may use.", "none"),
    ] = None,
    num_features: Annotated[int, _count("Most segments in the surrogate.", "all")] = 0,
    sampling: Annotated[
        Literal["paired", "independent"] | None,
        _option("paired: every sample with its complement.", OWN.format("paired where that helps")),
    ] = None,
    palette: Annotated[
        Literal["green_red", "blue_orange"] | None,
        _option("Colours for and against; blue_orange suits colour-blind readers.", "green_red"),
    ] = None,
    compat: Annotated[
        Literal["lime"] | None, option("The algorithm and the defaults of the lime package.")
    ] = None,
    seed: Annotated[
        int | None,
        option(
            "Seed of the samples; the same seed gives the same explanation.",
            min=0,
            max=2**32 - 1,
            show_default="random, and reported",
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        option(
            "Write the segment ids, 16-bit; 65535: outside the input region.",
            metavar="PNG",
            callback=image_file(suffixes=(".png",)),
        ),
    ] = None,
    segments_in: Annotated[
        Path | None, option("Use these segments: 8-bit or 16-bit ids.", metavar="PNG")
    ] = None,
    faces: Faces = NO_FACES,
    face: Annotated[
        int | None,
        face_option(
            "Explain this face, as limelens classify --faces numbers them.",
            min=0,
            max=MAX_FACES - 1,
            metavar="N",
            show_default="the worst",
        ),
    ] = None,
    face_detector: DetectorOption = DEFAULT_DETECTOR,
    blur_faces: BlurFaces = False,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Explains why the model decides as it does, with LIME or another --method.

    Each weight is how much of the label's probability a segment contributes, with its standard
    error; "stability" is the share of the top five that would recur with another seed. How to
    explain is the model's own setting, if its bundle has one, unless an option says otherwise.

    Of several images, or a folder, those that cannot be explained are listed, the others are
    explained, and the exit code is 1.

    With --faces the decision about one face is explained, and drawn in the whole image.

    Example: limelens explain door.jpg --out why.png --stability 0.9

    Example: limelens explain photos --report why.html

    Example: limelens explain hall.jpg --faces --out why.png --blur-faces
    """
    given = dict(locals())
    is_one = len(images) == 1 and not images[0].is_dir()
    written: dict[str, Path | None] = {
        "--out": overlay, "--heat-map": heat_map, "--segments": segments, "--steps": steps,
    }  # fmt: skip
    if not is_one:
        for flag, value in {**written, "--segments-in": segments_in}.items():
            if value is not None:
                raise typer.BadParameter(
                    f"{flag} is for one image; for several write a page with --report"
                )
    if STDIN in images and not (is_one and report is None):
        raise typer.BadParameter("- is for one image, without --report")
    if check and not (is_one and report is None):
        raise typer.BadParameter("--check is for one image, without --report")
    if check and contrast and not label:
        raise typer.BadParameter("--check follows labels; name one with --label beside --contrast")
    if face is not None and not faces.wanted:
        raise typer.BadParameter("--face without faces to find; expected --faces too")
    if blur_faces and steps is not None:
        raise typer.BadParameter("--steps shows what the model sees; expected no --blur-faces")
    if blur_faces and not (overlay or heat_map or report):
        raise typer.BadParameter("--blur-faces without an image to write; expected --out PNG too")
    by_products = ByProducts()
    arguments: ExplainArguments = {
        "model": served_name(server, model),
        "labels": label or (),
        "contrasts": [parse_contrast(pair) for pair in contrast or ()],
        "region": parse_region(region),
        "hide": None if hide is None else parse_hide(hide),
        "segments": None if segments_in is None else segments_in.read_bytes(),
        "timeout_s": _TIMEOUT_S,
        "faces": faces.wanted,
        "face": face,
    }
    arguments |= cast("ExplainArguments", {name: given[name] for name in _PASSED_ON})
    with open_client(server, model, device, credentials, face_detector) as client:
        blurrer = face_blurrer(
            client, blur_faces=blur_faces, model=arguments["model"], version=version
        )
        if is_one and report is None:
            with _naming(images[0]):
                _explain_one(
                    client,
                    images[0],
                    arguments,
                    written,
                    by_products,
                    blurrer,
                    check=check,
                    as_json=as_json,
                )
            documents = []
        else:
            documents = explain_several(client, images, arguments, report, by_products, blurrer)
    if as_json and documents:
        print_json(documents[0] if is_one else documents)
    if not as_json:
        for document in documents:
            print_line(document)
    by_products.report(as_json=as_json)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


@contextlib.contextmanager
def _naming(image: Path) -> Iterator[None]:
    """Names the image's file in its errors, in place of the request's field."""
    try:
        yield
    except InvalidRequestError as error:
        if not error.field.startswith("image."):
            raise
        raise LimelensError(f"{image}: {error.description}") from error


def _explain_one(
    client: Client,
    image: Path,
    arguments: ExplainArguments,
    written: dict[str, Path | None],
    by_products: ByProducts,
    blurrer: FaceBlurrer | None,
    *,
    check: bool,
    as_json: bool,
) -> None:
    kinds = [kind for flag, kind in _RENDERINGS.items() if written[flag] is not None]
    # Where faces are blurred, images are drawn here.
    arguments = {**arguments, "renderings": kinds if blurrer is None else ["segments"]}
    data = image_of(image)
    if isinstance(data, Path) and (arguments["faces"] or blurrer is not None):
        data = data.read_bytes()
    steps = written["--steps"]
    checked: tuple[Faithfulness, ...] = ()
    if steps is not None or check:
        local = _local_client(client, "--check" if check else "--steps")
        with sample_bar() as show:
            found, rendered = local.explain_fully(data, show, **arguments)
        if steps is not None:
            with by_products.writing(steps):
                draw_steps(local, rendered, arguments, steps)
        if check:
            from limelens.serve.explaining.explain_image import check_explained

            checked = check_explained(local.bundle, rendered)
    elif not err.is_terminal:
        found = client.explain(data, **arguments)
    else:
        with sample_bar() as show:
            for update in client.explain_stream(data, **arguments):
                show(update)
        found = update.explanation
    pixels = read_image(data) if isinstance(data, bytes) else None
    size = None if pixels is None else (pixels.shape[0], pixels.shape[1])
    if blurrer is not None and pixels is not None:
        pixels = blurrer.blur(pixels, found.face)
        found = redrawn(found, pixels, kinds, palette_of(arguments))
    for flag, kind in _RENDERINGS.items():
        if (path := written[flag]) is not None:
            with by_products.writing(path):
                png = found.segments_png if kind == "segments" else stacked(found, f"{kind}_png")
                write_encoded(path, png)
    if as_json:
        document = explanation_document(image, found, size)
        if check:
            labels = [one.label for one in found.explanations if one.against is None]
            document["check"] = [
                {**one.to_json(), "label": label}
                for label, one in zip(labels, checked, strict=True)
            ]
        print_json(document)
    else:
        print_explanation(image, found, size)
        for one in checked:
            print_check(one)


def _local_client(client: Client, flag: str) -> LocalClient:
    """The client, if its model is in this process."""
    from limelens.serve.client.in_process import LocalClient

    if not isinstance(client, LocalClient):
        raise typer.BadParameter(
            f"{flag} needs the model itself, in this process; give its file: --model FILE"
        )
    return client


def parse_contrast(text: str) -> tuple[str, str]:
    """Reads `--contrast`: two labels with a comma between them."""
    label, comma, against = text.partition(",")
    if not comma or not label or not against or "," in against:
        raise typer.BadParameter(
            f"--contrast {text!r}; expected two labels with a comma between them, such as cat,dog"
        )
    return label, against


def parse_hide(text: str) -> Hide:
    """Reads `--hide`: a word, or a colour as six hexadecimal digits."""
    from limelens.serve.client.requests import HideName

    names = get_args(HideName)
    if text in names:
        return cast("Hide", text)
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        raise typer.BadParameter(
            f"--hide {text!r}; expected {', '.join(names)} or a colour such as 000000"
        ) from None
    return red, green, blue
