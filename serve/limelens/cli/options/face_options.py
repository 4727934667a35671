"""The options of commands that look for faces.

`with_faces` gives them to a command for images, `with_people` to one for a camera's frames.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limelens.cli.options import in_place_of

if TYPE_CHECKING:
    from limelens.serve.client import FaceOptions

_option: Final = functools.partial(typer.Option, rich_help_panel="Faces")

_Faces = Annotated[
    bool, _option("--faces", help="Find faces, and classify each instead of the whole image.")
]
_MinFace = Annotated[
    int | None,
    _option(
        min=8,
        max=4096,
        help="Leave out faces whose longer side is shorter, in pixels.",
        metavar="PX",
        show_default="24",
    ),
]
_Threshold = Annotated[
    float | None,
    _option(
        min=0.001,
        max=1.0,
        help="The least score of the detector for a face.",
        show_default="the detector's own",
    ),
]
_MaxFaces = Annotated[
    int | None,
    _option(min=1, max=20, help="The most faces, the largest first.", show_default="20"),
]
Detector = Annotated[
    str,
    _option(
        "--face-detector",
        help="With --model FILE: what finds faces: default, centerface, or a detector's "
        "model.onnx. A server has its own.",
        metavar="NAME|FILE",
    ),
]
BlurFaces = Annotated[
    bool,
    _option(
        "--blur-faces",
        help="Blur every face in what is written, except the one that is explained.",
    ),
]


@dataclass(frozen=True)
class Faces:
    """Whether, and how, to look for faces."""

    options: FaceOptions | None = None

    @property
    def wanted(self) -> FaceOptions | bool:
        """The value of `faces=` of a client."""
        return self.options or False


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
        _option(
            min=1,
            max=100,
            help="Look for faces in every n-th frame; between, people are expected where they "
            "were going.",
            metavar="N",
            show_default="1",
        ),
    ] = None,
    skip_still: Annotated[
        bool,
        _option("--skip-still", help="Keep the last decisions for frames in which nothing moved."),
    ] = False,
    max_unseen_s: Annotated[
        float | None,
        _option(
            min=0.001,
            max=60.0,
            help="Seconds for which someone who turned away keeps their decision and number.",
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
    if not faces:
        if chosen:
            raise typer.BadParameter(
                f"{', '.join(chosen)} without faces to find; expected --faces too"
            )
        return NO_FACES
    from limelens.serve.faces.options import FaceOptions

    return Faces(FaceOptions(**dict(chosen.values())))


with_faces: Final = in_place_of("faces", read_faces)
"""Gives a command for images the options of `read_faces`, in place of its `faces`."""
with_people: Final = in_place_of("faces", read_people)
"""Gives a command for a camera the options of `read_people`, in place of its `faces`."""
