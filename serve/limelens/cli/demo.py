"""`limelens demo`: a portrait as it is and with a mask, explained, and among other people."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from limelens.cli.bench import serve_command
from limelens.cli.options import option
from limelens.cli.options.output_options import IMAGE, image_file, writable_file_anywhere
from limelens.cli.serving import packaged_models
from limelens.cli.terminal.faces import print_faces
from limelens.cli.terminal.printing import out
from limelens.serve.image import Region
from limelens.serve.image.writing import write_image

if TYPE_CHECKING:
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.tools.load import ServerProcess

# Where the face is in scikit-image's portrait of the astronaut Eileen Collins, 512x512.
_LEFT_EYE: Final = (203.7, 101.2)
_RIGHT_EYE: Final = (246.8, 103.5)
_YAW: Final = -0.08
_HEAD: Final = Region(0.25, 0.03, 0.63, 0.41)
_SEED: Final = 0
_HALL_SEED: Final = 1
_MODEL: Final = "facemask"
# Beside the portrait's person: the middle between the eyes, their distance in pixels, and the mask.
_OTHERS: Final = (
    ((100, 130), 40, "surgical-blue"),
    ((560, 120), 44, None),
    ((690, 190), 34, "surgical-green"),
)
_BESIDE: Final = 140
"""Pixels added at the left and the right of the portrait for them."""
_HALL_HEIGHT: Final = 432
_Number = TypeVar("_Number", np.uint8, np.uint16)


def demo(
    image: Annotated[
        Path,
        option(
            "The image to write.",
            "--out",
            metavar=IMAGE,
            callback=image_file(writable_file_anywhere),
        ),
    ] = Path("build/demo.png"),
) -> None:
    """Starts a server, classifies and explains a portrait without and with a mask.

    Then finds and classifies the faces in a frame of several people, most of them drawn, and writes
    that beside the first image, with boxes and decisions.
    """
    from limelens.explain import overlay, side_by_side
    from limelens.serve.client import Client
    from limelens.serve.tools.faces.drawing import draw_faces

    portrait = _portrait()
    panels: list[tuple[str, NDArray[np.uint8]]] = []
    with _server() as server:
        out.print(f"[dim]{escape(server.ready)}[/]")
        with Client(server.address) as client:
            for name, pixels in (("the portrait", portrait), ("with a mask", _masked(portrait))):
                prediction = client.classify([pixels], model=_MODEL, region=_HEAD)
                explanation = client.explain(
                    pixels,
                    model=_MODEL,
                    region=_HEAD,
                    seed=_SEED,
                    renderings=["segments"],
                )
                scores = "  ".join(f"{s.label} {s.probability:.3f}" for s in prediction[0].scores)
                label = prediction[0].label or "abstained"
                out.print(
                    f"{name + ':':14}{_decision(prediction[0])}   {escape(scores)}   "
                    f"classified in {prediction.timings_ms.total:.1f} ms, explained with "
                    f"{explanation.num_samples} samples in {explanation.timings_ms.total:.0f} ms"
                )
                one = explanation.explanations[0]
                segments = explanation.segments()
                assert segments is not None  # they were requested
                weights = {each.segment: each.weight for each in one.weights}
                drawn = overlay(_head(pixels), _head(segments), weights)
                panels.append((name, _head(pixels)))
                panels.append((f"why {label} ({one.probability:.2f})", drawn))
            hall = _hall(portrait)
            (people,) = client.classify([hall], model=_MODEL, faces=True)
            out.print(f"in a hall:    {_decision(people)}")
            print_faces(people.faces, (hall.shape[0], hall.shape[1]))
    image.parent.mkdir(parents=True, exist_ok=True)
    faces_image = image.with_name(f"{image.stem}-faces{image.suffix}")
    write_image(image, side_by_side(panels))
    write_image(faces_image, draw_faces(hall, people))
    out.print(f"\nWrote [bold]{escape(str(image))}[/]: green speaks for the label, red against,")
    out.print(
        f"and [bold]{escape(str(faces_image))}[/]: each face with its decision, red is an alert."
    )
    out.print(
        "Now try your own images:\n"
        "  limelens serve                        (in another terminal; here: .venv/bin/limelens)\n"
        "  limelens classify PHOTO.jpg\n"
        "  limelens classify HALL.jpg --faces --draw drawn.png\n"
        "  limelens explain PHOTO.jpg --out why.png\n"
        "or train on your own folders, one a label:\n"
        "  make install\n"
        "  limelens train FOLDER\n"
        "or drop them on a page, and see each step of their explanations:\n"
        "  limelens console --server 127.0.0.1:8500\n"
        "  http://127.0.0.1:8600/try             (in a browser)"
    )


def _portrait() -> NDArray[np.uint8]:
    from skimage.data import astronaut

    pixels: NDArray[np.uint8] = astronaut()  # type: ignore[no-untyped-call]
    return pixels


def _masked(portrait: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Drawn by the code that makes training images; it needs neither torch nor a detector.
    from limelens.train.synthetic import MASK_STYLES, Face, draw_mask

    face = Face(_LEFT_EYE, _RIGHT_EYE, _YAW)
    style = MASK_STYLES["surgical-blue"]
    return draw_mask(portrait, face, style, np.random.default_rng(_SEED))[0]


def _decision(prediction: Prediction) -> str:
    """The label, and whether it is an alert, as markup."""
    alert = "  [red]alert[/]" if prediction.alert else ""
    return f"[bold]{escape(prediction.label or 'abstained')}[/]{alert}"


def _hall(portrait: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame of the portrait's person among others, who are drawn."""
    from limelens.train.synthetic import MASK_STYLES, Face, add_person, draw_mask

    frame = np.pad(portrait, ((0, 0), (_BESIDE, _BESIDE), (0, 0)), mode="reflect")[:_HALL_HEIGHT]
    for number, ((x, y), unit, style) in enumerate(_OTHERS):
        rng = np.random.default_rng([_HALL_SEED, number])
        face = Face((x - unit / 2, y), (x + unit / 2, y + 1))
        frame = add_person(frame, face, rng)
        if style is not None:
            frame = draw_mask(frame, face, MASK_STYLES[style], rng)[0]
    return frame


def _head(pixels: NDArray[_Number]) -> NDArray[_Number]:
    left, top, right, bottom = _HEAD.box(*pixels.shape[:2])
    return pixels[top:bottom, left:right]


@contextmanager
def _server() -> Iterator[ServerProcess]:
    """A server in its own process, stopped at the end and on SIGTERM."""
    from limelens.serve.tools.load import started

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with started(serve_command(packaged_models())) as server:
            yield server
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_signal: int, _frame: object) -> None:
    """Turns SIGTERM into an exception, so that the server is stopped."""
    sys.exit(1)
