"""The options of commands that look for faces.

`with_faces` gives them to a command for images, `with_people` to one for a camera's frames.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limelens.cli.options import in_place_of, option
from limelens.serve.faces.options import MAX_FACES, FaceOptions

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

face_option: Final = functools.partial(option, rich_help_panel="Faces")
"""An option about faces."""

_Faces = Annotated[
    bool, face_option("Find faces, and classify each instead of the whole image.", "--faces")
]
_MinFace = Annotated[
    int | None,
    face_option(
        "Leave out faces whose longer side is shorter, in pixels.",
        min=8,
        max=4096,
        metavar="PX",
        show_default="24",
    ),
]
_Threshold = Annotated[
    float | None,
    face_option(
        "The least score of the detector for a face.",
        min=0.001,
        max=1.0,
        show_default="the detector's own",
    ),
]
_MaxFaces = Annotated[
    int | None,
    face_option(
        "The most faces, the largest first.", min=1, max=MAX_FACES, show_default=str(MAX_FACES)
    ),
]
DetectorOption = Annotated[
    str,
    face_option(
        "With --model FILE: what finds faces: default, centerface, or a detector's model.onnx. A "
        "server has its own.",
        "--face-detector",
        metavar="NAME|FILE",
    ),
]
BlurFaces = Annotated[
    bool,
    face_option(
        "Blur every face in the images that are written, except one that is explained.",
        "--blur-faces",
    ),
]


@dataclass(frozen=True)
class Faces:
    """Whether, and how, to look for faces: the value of `faces=` of a client."""

    wanted: FaceOptions | bool = False


NO_FACES: Final = Faces()


def read_faces(
    faces: _Faces = False,
    min_face: _MinFace = None,
    face_threshold: _Threshold = None,
    max_faces: _MaxFaces = None,
) -> Faces:
    """Turns the options for images into one value."""
    return _read(
        faces,
        {
            "--min-face": ("min_size_px", min_face),
            "--face-threshold": ("threshold", face_threshold),
            "--max-faces": ("max_faces", max_faces),
        },
    )


def read_people(
    faces: _Faces = False,
    min_face: _MinFace = None,
    face_threshold: _Threshold = None,
    max_faces: _MaxFaces = None,
    detect_every: Annotated[
        int | None,
        face_option(
            "Look for faces in every n-th frame; between, people are expected where they were "
            "going.",
            min=1,
            max=100,
            metavar="N",
            show_default="1",
        ),
    ] = None,
    skip_still: Annotated[
        bool,
        face_option("Keep the last decisions for frames in which nothing moved.", "--skip-still"),
    ] = False,
    max_unseen_s: Annotated[
        float | None,
        face_option(
            "Seconds for which someone who turned away keeps their decision and number.",
            min=0.001,
            max=60.0,
            show_default="2",
        ),
    ] = None,
) -> Faces:
    """Turns the options for a camera's frames into one value."""
    return _read(
        faces,
        {
            "--min-face": ("min_size_px", min_face),
            "--face-threshold": ("threshold", face_threshold),
            "--max-faces": ("max_faces", max_faces),
            "--detect-every": ("detect_every", detect_every),
            "--skip-still": ("skip_still_frames", skip_still),
            "--max-unseen-s": ("max_unseen_s", max_unseen_s),
        },
    )


def _read(faces: bool, given: dict[str, tuple[str, Any]]) -> Faces:
    chosen = {flag: pair for flag, pair in given.items() if pair[1]}
    if faces:
        return Faces(FaceOptions(**dict(chosen.values())))
    if chosen:
        raise typer.BadParameter(f"{', '.join(chosen)} without faces to find; expected --faces too")
    return NO_FACES


with_faces: Final = in_place_of("faces", read_faces)
"""Gives a command for images the options of `read_faces`, in place of its `faces`."""
with_people: Final = in_place_of("faces", read_people)
"""Gives a command for a camera the options of `read_people`, in place of its `faces`."""


def face_blurrer(
    client: Client, *, blur_faces: bool, model: str, version: int
) -> FaceBlurrer | None:
    """What `--blur-faces` asks for; None if it is not given."""
    if not blur_faces:
        return None
    from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

    return FaceBlurrer(client, model, version)
