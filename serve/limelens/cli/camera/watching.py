"""`limelens camera`: classifies a camera, a video or a folder by a server, and explains changes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limelens.cli.camera.lines import jsonl, lines, messages
from limelens.cli.camera.report import Report
from limelens.cli.classifying import (
    DEFAULT_SERVER,
    RegionOption,
    Threshold,
    Version,
    parse_region,
)
from limelens.cli.explain.explaining import OWN, parse_hide
from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, Credentials, connect, securely
from limelens.cli.options.face_options import (
    NO_FACES,
    BlurFaces,
    Faces,
    face_blurrer,
    with_people,
)
from limelens.cli.terminal.printing import AsJson, out, print_json
from limelens.serve.errors import PermissionDeniedError

if TYPE_CHECKING:
    from limelens.serve.tools.camera import Source


@securely
@with_people
def camera(
    source: Annotated[
        str,
        typer.Argument(
            help="A device's number, /dev/videoN, rtsp://…, http(s)://…, a video, a folder of "
            "images, or - for a video on standard input.",
            show_default=False,
        ),
    ],
    server: Annotated[str, option("The server to call.", metavar="HOST:PORT")] = DEFAULT_SERVER,
    model: Annotated[
        str, option("A model on the server.", metavar="NAME", show_default="the only one")
    ] = "",
    version: Version = 0,
    camera_id: Annotated[
        str, option("The camera's name in the server's log and in overlays' names.")
    ] = "camera",
    region: RegionOption = None,
    threshold: Threshold = None,
    window: Annotated[
        int, option("Number of frames that a decision considers.", min=1, max=1000)
    ] = 1,
    required: Annotated[
        int, option("How many of them must agree.", min=0, max=1000, show_default="more than half")
    ] = 0,
    required_to_alert: Annotated[
        int,
        option(
            "How many must agree on an alert label; clearing it needs --required.",
            min=0,
            max=1000,
            show_default="as --required",
        ),
    ] = 0,
    max_decision_age_s: Annotated[
        float,
        option(
            "Seconds without a frame after which the decision becomes unknown; 0: never.", min=0.0
        ),
    ] = 0.0,
    fps: Annotated[
        float | None, option("Frames a second at most.", min=0.001, show_default="all")
    ] = None,
    live: Annotated[
        bool | None,
        option(
            "Send only the newest frame, or every frame.",
            "--newest-only/--every-frame",
            show_default="newest for a camera, every frame of a file",
        ),
    ] = None,
    quality: Annotated[
        int, option("JPEG quality of the frames that are sent.", min=1, max=95)
    ] = 90,
    explain_on_change: Annotated[
        Path | None,
        option("Write an overlay for each change: green for, red against.", metavar="DIR"),
    ] = None,
    alerts_only: Annotated[
        bool, option("Explain only changes to alert labels.", "--alerts-only")
    ] = False,
    hide: Annotated[
        str | None,
        option(
            "Fill of hidden segments: mean, blur, shuffle, references, or a colour.",
            show_default=OWN.format("mean"),
        ),
    ] = None,
    num_segments: Annotated[
        int, option("Segments of an explanation.", min=0, max=1000, show_default=OWN.format(40))
    ] = 0,
    num_samples: Annotated[
        int, option("Samples of an explanation.", min=0, show_default=OWN.format(1000))
    ] = 0,
    faces: Faces = NO_FACES,
    blur_faces: BlurFaces = False,
    as_jsonl: Annotated[
        bool, option("Print each answer as a line of JSON, as soon as it comes.", "--jsonl")
    ] = False,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Classifies the frames of a camera, a video or a folder of images.

    Prints a line for each change of the decision. From a camera only the newest frame is sent; a
    lost camera or server is tried again until it is back. From a file every frame is sent, and the
    exit code is 1 if one of them was not an image. Ctrl-C ends it with exit code 0.

    With --faces the people in the frames are followed by their faces. A line is printed for each
    change of the decision about a person, once, and for each change of the decision about all.

    With --json, one document is printed at the end; with --jsonl, a line for each answer.

    Example: limelens camera rtsp://door/live --window 5 --required-to-alert 1 --fps 5

    Example: limelens camera hall.mp4 --faces --window 5 --explain-on-change why --blur-faces
    """
    if as_json and as_jsonl:
        raise typer.BadParameter("--json and --jsonl; expected only one of them")
    required = required or window // 2 + 1
    if not window < 2 * required <= 2 * window:
        raise typer.BadParameter(
            f"--required {required} of --window {window}; expected {window // 2 + 1} to {window}"
        )
    if required_to_alert > required:
        raise typer.BadParameter(
            f"--required-to-alert {required_to_alert}; expected at most --required, {required}"
        )
    if explain_on_change is None:
        explaining = {
            "--alerts-only": alerts_only,
            "--hide": hide,
            "--num-segments": num_segments,
            "--num-samples": num_samples,
            "--blur-faces": blur_faces,
        }
        if without := [name for name, value in explaining.items() if value]:
            raise typer.BadParameter(
                f"{', '.join(without)} without explanations; expected --explain-on-change DIR too"
            )
    settings: dict[str, Any] = {
        "camera_id": camera_id,
        "model": model,
        "version": version,
        "region": parse_region(region),
        "threshold": threshold,
        "smoothing": (window, required),
        "required_to_alert": required_to_alert,
        "max_decision_age_s": max_decision_age_s,
        "faces": faces.wanted,
    }
    if explain_on_change is not None:
        explain_on_change.mkdir(parents=True, exist_ok=True)
        settings["explain_alerts_only"] = alerts_only
        settings["explain_on_change"] = {
            "hide": None if hide is None else parse_hide(hide),
            "num_segments": num_segments,
            "num_samples": num_samples,
            # Where faces are blurred, the overlay is drawn here.
            "renderings": ["segments" if blur_faces else "overlay"],
        }
    # Loaded here because gRPC reads its settings from the environment when it is loaded.
    from limelens.serve.tools.camera import open_source, watch

    with connect(server, credentials) as client:
        try:
            info = client.model(model, version)  # an unknown one fails at once
        except PermissionDeniedError:  # a caller who may classify need not see the models
            info = None
        blurrer = face_blurrer(client, blur_faces=blur_faces, model=model, version=version)
        if blurrer is not None:
            blurrer.check()
        with (
            open_source(source, live=live, max_fps=fps, quality=quality, report=messages) as frames,
            _stopping(frames),
        ):
            report = Report(frames, info, camera_id, explain_on_change, messages, blurrer)
            with nullcontext(jsonl) if as_jsonl or as_json else lines(report) as print_answer:
                for found in watch(
                    client, frames, report=messages, keep_images=blur_faces, **settings
                ):
                    written = report.add(found)
                    if not as_json:
                        print_answer(found, written)
    if as_json:
        print_json(report.document())
    elif not as_jsonl:
        out.print(report.summary())
    if report.num_bad and not frames.is_live:
        raise typer.Exit(1)


@contextmanager
def _stopping(source: Source) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the source, the second ends the process."""
    reading, writing = os.pipe()

    def handle(_number: int, _frame: Any) -> None:
        # Nothing else is safe here: the main thread may hold any lock.
        os.write(writing, b".")
        for number, handler in before.items():
            signal.signal(number, handler)

    def wait() -> None:
        if os.read(reading, 1) == b".":
            source.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"-")
        thread.join()
        os.close(reading)
        os.close(writing)
