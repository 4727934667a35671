"""`limelens classify`, and the choice of a server or a model file in this process."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from limelens.cli.options import option
from limelens.cli.options.connection_options import (
    NOTHING,
    OF_THE_SERVER,
    Credentials,
    connect,
    securely,
)
from limelens.cli.options.face_options import (
    NO_FACES,
    BlurFaces,
    DetectorOption,
    Faces,
    face_blurrer,
    face_option,
    with_faces,
)
from limelens.cli.options.output_options import (
    IMAGE,
    image_file,
    writable_folder,
)
from limelens.cli.terminal.by_products import ByProducts
from limelens.cli.terminal.faces import face_document, prediction_document, print_faces
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    UnavailableError,
    UnreadableFileError,
)
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.image import Region, read_image
from limelens.serve.image.writing import write_image
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.client import ClassifyArguments, Client
    from limelens.serve.client.results import Classification
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer
    from limelens.serve.tools.similar import IndexedImage

STDIN: Final = Path("-")
DEFAULT_SERVER: Final = "127.0.0.1:8500"
_MOST: Final = 2**31 - 1

ServerOption = Annotated[
    str | None, option("The server to call.", metavar="HOST:PORT", show_default=DEFAULT_SERVER)
]
ModelOption = Annotated[
    str | None,
    option(
        "A model.onnx to run in this process without a server, or the name of a model on the "
        "server.",
        metavar="FILE|NAME",
    ),
]
Version = Annotated[int, option("Version of the model.", min=0, show_default="newest")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], option("Where to run a model file in this process.")
]
RegionOption = Annotated[
    str | None,
    option(
        "Use only this part, in fractions of the upright image: 0.25,0,0.75,0.6",
        "--region",
        metavar="L,T,R,B",
    ),
]

Threshold = Annotated[
    float | None,
    option("Abstain below this probability.", min=0.0, max=1.0, show_default="the model's own"),
]


@securely
@with_faces
def classify(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="JPEG, PNG, WebP, BMP or GIF files, folders of them, or - for standard input.",
            show_default=False,
        ),
    ],
    server: ServerOption = None,
    model: ModelOption = None,
    version: Version = 0,
    device: Device = "auto",
    region: RegionOption = None,
    top_k: Annotated[int, option("Scores to show.", min=0, max=_MOST, show_default="up to 5")] = 0,
    threshold: Threshold = None,
    faces: Faces = NO_FACES,
    face_detector: DetectorOption = DEFAULT_DETECTOR,
    draw: Annotated[
        Path | None,
        face_option(
            "Write the image with boxes and decisions.",
            metavar=IMAGE,
            callback=image_file(),
        ),
    ] = None,
    save_drawn: Annotated[
        Path | None,
        face_option(
            "Write each image with boxes and decisions into this folder.",
            metavar="DIR",
            callback=writable_folder,
        ),
    ] = None,
    blur_faces: BlurFaces = False,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Classifies images.

    Images that cannot be read are reported, the others are classified, and the exit code is 1.

    With --faces, each face is classified and printed with its place: width x height at left, top,
    in pixels. The image is then decided like the worst of its faces: one that is an alert, else one
    that is unknown.

    Example: limelens classify door.jpg hall.png --model models/facemask/2/model.onnx

    Example: limelens classify hall.jpg --faces --draw drawn.png
    """
    if images.count(STDIN) > 1:
        raise typer.BadParameter("- is standard input; expected it once")
    written = {"--draw": draw, "--save-drawn": save_drawn}
    if not faces.wanted and (given := [flag for flag, path in written.items() if path is not None]):
        raise typer.BadParameter(f"{given[0]} without faces to draw; expected --faces too")
    if blur_faces and draw is None and save_drawn is None:
        raise typer.BadParameter("--blur-faces without an image to write; expected --draw PNG too")
    if draw is not None and save_drawn is not None:
        raise typer.BadParameter("--draw and --save-drawn; expected only one of them")
    files = list(files_of(images))
    if draw is not None and len(files) > 1:
        raise typer.BadParameter("--draw is for one image; for several name a --save-drawn folder")
    arguments: ClassifyArguments = {
        "model": served_name(server, model),
        "version": version,
        "region": parse_region(region),
        "top_k": top_k,
        "threshold": threshold,
        "faces": faces.wanted,
    }
    by_products = ByProducts()
    answers: list[dict[str, Any]] = []
    with open_client(server, model, device, credentials, face_detector) as client:
        blurrer = face_blurrer(
            client, blur_faces=blur_faces, model=arguments["model"], version=version
        )
        drawn = [draw] if save_drawn is None else _drawn_paths(files, save_drawn)
        for image, path in zip_longest(files, drawn):
            found = _classified(client, image, arguments)
            answers.append(found.document)
            if not as_json:
                _print(found)
            if path is not None and found.pixels is not None:
                with by_products.writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _draw(found, path, blurrer)
    if as_json:
        print_json(answers)
    by_products.report(as_json=as_json)
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)


@dataclass(frozen=True, eq=False)
class _Classified:
    """The result for one image; pixels only if faces were asked for."""

    document: dict[str, Any]
    prediction: Prediction | None = None
    pixels: NDArray[np.uint8] | None = None


def open_client(
    server: str | None,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    credentials: Credentials = NOTHING,
    face_detector: str = DEFAULT_DETECTOR,
) -> AbstractContextManager[Client]:
    """A client: of a model in this process if `--model` is a file, otherwise of the server."""
    if server is None and model is not None and _is_file(model):
        from limelens.serve.client.in_process import local_client

        return local_client(model, device, face_detector)
    return _connect_by_default(credentials) if server is None else connect(server, credentials)


@contextmanager
def _connect_by_default(credentials: Credentials) -> Iterator[Client]:
    """A client of a server that nobody named: its error also says how to do without one."""
    try:
        with connect(DEFAULT_SERVER, credentials) as client:
            yield client
    except UnavailableError as error:
        raise UnavailableError(
            f"{error}; or name a model.onnx, which needs no server (--model FILE)"
        ) from error


def _is_file(model: str) -> bool:
    """Whether --model names a file or a folder, rather than a model of a server."""
    return model.endswith(".onnx") or "/" in model or Path(model).exists()


def served_name(server: str | None, model: str | None) -> str:
    """The model's name for requests; empty means the only one."""
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


def image_of(image: Path) -> Path | bytes:
    """The image that an argument names: a file, or with `-` standard input."""
    return sys.stdin.buffer.read() if image == STDIN else image


def of_image(error: LimelensError) -> str:
    """The message for an image's error; the reason alone if the path is printed before it.

    Raises:
        InvalidRequestError: The error itself, if it is about an option and so of every image.
    """
    if isinstance(error, InvalidRequestError) and error.field:
        if not error.field.startswith("images[0]"):
            raise error
        return error.description
    if isinstance(error, UnreadableFileError):
        return str(error.strerror)
    return str(error)


def files_of(images: Iterable[Path]) -> Iterator[Path]:
    """The images, with each folder replaced by the images in it."""
    for image in images:
        if image.is_dir():
            yield from (image / found.path for found in images_in(image))
        else:
            yield image


def images_in(folder: Path) -> Sequence[IndexedImage]:
    """The images below a folder; prints a note if there are other files.

    Raises:
        IndexRefusedError: There are none.
    """
    from limelens.serve.tools.similar import find_images

    images, others = find_images(folder)
    for other in others[:1]:
        err.print(
            f"{counted(len(others), 'file')} not read as images, such as {escape(other.path)}"
        )
    return images


def _classified(client: Client, image: Path, arguments: ClassifyArguments) -> _Classified:
    """The result for one image."""
    try:
        data = image_of(image)
        if not arguments["faces"]:
            return _Classified(_answer(image, client.classify(data, **arguments)))
        data = data.read_bytes() if isinstance(data, Path) else data
        found = client.classify(data, **arguments)
        pixels = read_image(data)
        size = pixels.shape[0], pixels.shape[1]
        document = _answer(image, found)
        document["faces"] = [face_document(face, size) for face in found[0].faces]
        return _Classified(document, found[0], pixels)
    except OF_THE_SERVER:  # the other images would fail too
        raise
    except LimelensError as error:
        return _Classified({"path": str(image), "error": of_image(error)})
    except OSError as error:
        return _Classified({"path": str(image), "error": str(error.strerror or error)})


def _answer(image: Path, found: Classification) -> dict[str, Any]:
    prediction = found[0]
    return {
        "path": str(image),
        **prediction_document(prediction),
        "alert": prediction.alert,
        "threshold": prediction.threshold,
        "macro_label": prediction.macro_label,
        "model": found.model.name,
        "version": found.model.version,
        "provider": found.model.provider,
    }


def _print(found: _Classified) -> None:
    print_one(found.document, alarming="alert", more=partial(_scores, found.document))
    if found.prediction is not None and found.pixels is not None:
        print_faces(found.prediction.faces, (found.pixels.shape[0], found.pixels.shape[1]))


def _draw(found: _Classified, path: Path, blurrer: FaceBlurrer | None) -> None:
    from limelens.serve.tools.faces.drawing import draw_faces

    assert found.pixels is not None  # faces were asked for
    assert found.prediction is not None
    pixels = found.pixels if blurrer is None else blurrer.blur(found.pixels)
    write_image(path, draw_faces(pixels, found.prediction))


def _drawn_paths(files: Sequence[Path], folder: Path) -> list[Path]:
    """A file in the folder for each image, named like it."""
    counts: Counter[str] = Counter()
    paths: list[Path] = []
    for file in files:
        stem = "stdin" if file == STDIN else file.stem
        counts[stem] += 1
        paths.append(folder / (f"{stem}-{counts[stem]}.png" if counts[stem] > 1 else f"{stem}.png"))
    return paths


def print_one(answer: dict[str, Any], *, alarming: str, more: Callable[[], str]) -> None:
    """Prints the decision on one image, as `--json` has it, or its error.

    The field `alarming` makes the decision stand out; `more` gives the text after it.
    """
    path = escape(answer["path"])
    if "error" in answer:
        err.print(f"{path}: [red]{escape(answer['error'])}[/]")
        return
    undecided = "no face" if answer["decision"] == "no_face" else "abstained"
    decided = answer["label"] or ", ".join(answer["labels"]) or undecided
    style = "bold red" if answer[alarming] else "bold"
    out.print(f"{path}: [{style}]{escape(decided)}[/]{more()}")


def _scores(answer: dict[str, Any]) -> str:
    scores = "  ".join(
        f"{escape(score['label'])} {score['probability']:.3f}" for score in answer["scores"]
    )
    alert = " [red](alert)[/]" if answer["alert"] else ""
    if "faces" in answer:
        count = len(answer["faces"])
        return f"{alert}   {counted(count, 'face')}" if count else ""
    return f"{alert}   {scores}"
