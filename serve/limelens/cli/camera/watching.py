"""`limelens camera`: classifies a camera, a video or a folder by a server, and explains changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from limelens.cli.camera.lines import jsonl, lines, messages
from limelens.cli.camera.report import Report
from limelens.cli.camera.stopping import stopping
from limelens.cli.camera.telling import Losses, News, Teller
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
from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.printing import AsJson, out, print_json
from limelens.serve.decisions.camera_state import UnknownReason
from limelens.serve.errors import PermissionDeniedError
from limelens.serve.service_manager import ServiceManager

DEFAULT_MAX_DECISION_AGE_S: Final = 2.0
DEFAULT_FROZEN_AFTER_S: Final = 10.0
DEFAULT_HEARTBEAT_S: Final = 1.0


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
        float | None,
        option(
            "Seconds without a frame after which the decision becomes unknown; 0: never.",
            min=0.0,
            show_default="2 for a camera, never for a file",
        ),
    ] = None,
    transport: Annotated[
        Literal["tcp", "udp"],
        option("How frames of an rtsp:// camera travel; with udp some may be lost."),
    ] = "tcp",
    password_file: Annotated[
        Path | None,
        option(
            "A file with USER:PASSWORD of the camera, which its address then leaves out.",
            metavar="FILE",
        ),
    ] = None,
    frozen_after_s: Annotated[
        float,
        option(
            "Seconds of the same frame again and again after which a camera's state is unknown; "
            "0: never.",
            min=0.0,
        ),
    ] = DEFAULT_FROZEN_AFTER_S,
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
        option(
            "Write an overlay for each change: green for, red against.",
            metavar="DIR",
            callback=writable_folder,
        ),
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
        bool, option("Print each answer and each state as a line of JSON at once.", "--jsonl")
    ] = False,
    heartbeat_s: Annotated[
        float | None,
        option(
            "With --jsonl: how often to repeat the state; silence means failure. 0: never.",
            min=0.0,
            show_default="1 for a camera, never for a file",
        ),
    ] = None,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Classifies the frames of a camera, a video or a folder of images.

    Prints a line for each change of the decision. From a camera only the newest frame is sent; a
    lost camera or server is tried again until it is back. From a file every frame is sent, and the
    exit code is 1 if one of them was not an image. Ctrl-C ends it with exit code 0.

    With --faces the people in the frames are followed by their faces. A line is printed for each
    change of the decision about a person, once, and for each change of the decision about all.

    Each line begins with the camera's state: alert, clear, or unknown, which is no clearance.

    With --json, one document is printed at the end; with --jsonl, a line for each answer, each
    change of the state and each heartbeat. A door takes all but clear for unknown, silence too.

    Example: limelens camera rtsp://door/live --window 5 --required-to-alert 1 --fps 5

    Example: limelens camera rtsp://door/live --password-file door.password --heartbeat-s 1 --jsonl

    Example: limelens camera hall.mp4 --faces --window 5 --explain-on-change why --blur-faces
    """
    if as_json and as_jsonl:
        raise typer.BadParameter("--json and --jsonl; expected only one of them")
    if heartbeat_s is not None and not as_jsonl:
        raise typer.BadParameter("--heartbeat-s without lines of JSON; expected --jsonl too")
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
    manager = ServiceManager()
    # Loaded here because gRPC reads its settings from the environment when it is loaded.
    from limelens.serve.tools.camera import StateKeeper, open_source, watch

    with connect(server, credentials) as client:
        try:
            info = client.model(model, version)  # an unknown one fails at once
        except PermissionDeniedError:  # a caller who may classify need not see the models
            info = None
        blurrer = face_blurrer(client, blur_faces=blur_faces, model=model, version=version)
        if blurrer is not None:
            blurrer.check()
        losses = Losses()
        with (
            open_source(
                source, live=live, max_fps=fps, quality=quality, report=messages,
                transport=transport,
                credentials="" if password_file is None else password_file.read_text,
                frozen_after_s=frozen_after_s, on_lost=losses.lost, on_back=losses.back,
            ) as frames,
            stopping(manager.stopping, frames.stop),
        ):  # fmt: skip
            if max_decision_age_s is None:
                max_decision_age_s = DEFAULT_MAX_DECISION_AGE_S if frames.is_live else 0.0
            if heartbeat_s is None:
                heartbeat_s = DEFAULT_HEARTBEAT_S if frames.is_live and as_jsonl else 0.0
            keeper = StateKeeper(max_decision_age_s=max_decision_age_s)

            def tick() -> None:
                frames.tick()
                manager.alive()

            report = Report(frames, info, camera_id, explain_on_change, messages, blurrer)
            with (
                _telling(report, camera_id, as_json=as_json, as_jsonl=as_jsonl) as tell,
                Teller(keeper, heartbeat_s, tell, failed=frames.stop, tick=tick) as teller,
                losses.told_to(teller),
            ):
                manager.ready(f"watching {frames.name}")
                for found in watch(
                    client,
                    frames,
                    report=messages,
                    keep_images=blur_faces,
                    on_lost=lambda error: teller.lost(UnknownReason.SERVER_LOST, str(error)),
                    on_back=lambda: teller.back(UnknownReason.SERVER_LOST),
                    max_decision_age_s=max_decision_age_s,
                    **settings,
                ):
                    teller.answered(found, report.add(found))
    if as_json:
        print_json(report.document())
    elif not as_jsonl:
        out.print(report.summary())
    if report.num_bad and not frames.is_live:
        raise typer.Exit(1)


def _telling(
    report: Report, camera_id: str, *, as_json: bool, as_jsonl: bool
) -> AbstractContextManager[Callable[[News], object]]:
    if as_json:
        return nullcontext(lambda _news: None)
    return nullcontext(jsonl(camera_id)) if as_jsonl else lines(report)
