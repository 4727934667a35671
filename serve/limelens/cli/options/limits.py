"""The options of `limelens serve` that say how much a server takes on."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "How much is taken on"


def _option(help_: str, least: int = 1) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(min=least, help=help_, rich_help_panel=_PANEL)
    return found


MaxBatchSize = Annotated[int, _option("Images joined into one run on a GPU; on the CPU none are.")]
MaxQueue = Annotated[int, _option("Images of requests that wait; more are refused.")]
MaxImages = Annotated[int, _option("Images in one request.")]
MaxPixels = Annotated[int, _option("Height times width of one image.")]
MaxDecodeS = Annotated[
    float,
    typer.Option(
        min=0.01,
        help="Seconds of CPU that decoding one image may take, beside what its bytes take.",
        rich_help_panel=_PANEL,
    ),
]
MaxSamples = Annotated[int, _option("Images shown to the model for one explanation.", 10)]
MaxMessageBytes = Annotated[int, _option("Of one request or answer.", 1024)]
MaxWaitingBytes = Annotated[int, _option("Of all images that wait or are worked on.")]
MaxCalls = Annotated[int, _option("Calls and streams at a time.")]
MaxStreams = Annotated[int, _option("Cameras at a time.", 0)]
MaxExplanations = Annotated[int, _option("Explanations at a time.")]
MaxWaitingExplanations = Annotated[int, _option("Explanations that wait; more are refused.", 0)]
StreamIdleS = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="A camera that sends or reads nothing for so many seconds is ended.",
        rich_help_panel=_PANEL,
    ),
]
