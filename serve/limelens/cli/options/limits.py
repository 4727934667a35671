"""The options of `limelens serve` that limit its work."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "Limits"


def _option(help_: str, least: int = 1) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(min=least, help=help_, rich_help_panel=_PANEL)
    return found


MaxBatchSize = Annotated[
    int, _option("Most images in one run on a GPU; on the CPU each runs alone.")
]
MaxQueue = Annotated[int, _option("Images that may wait; more are refused.")]
MaxImages = Annotated[int, _option("Images in one request.")]
MaxPixels = Annotated[int, _option("Height times width of one image.")]
MaxDecodeS = Annotated[
    float,
    typer.Option(
        min=0.01,
        help="Seconds of CPU time for decoding one image, beyond those for its bytes.",
        rich_help_panel=_PANEL,
    ),
]
MaxSamples = Annotated[int, _option("Samples of one explanation.", 10)]
MaxMessageBytes = Annotated[int, _option("Bytes of one request or response.", 1024)]
MaxWaitingBytes = Annotated[int, _option("Bytes of all images that wait or are processed.")]
MaxCalls = Annotated[int, _option("Calls and streams at a time.")]
MaxStreams = Annotated[int, _option("Cameras at a time.", 0)]
MaxExplanations = Annotated[int, _option("Explanations at a time.")]
MaxWaitingExplanations = Annotated[int, _option("Explanations that wait; more are refused.", 0)]
StreamIdleS = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds without sending or reading after which a camera's stream ends.",
        rich_help_panel=_PANEL,
    ),
]
