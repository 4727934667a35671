"""The options of `limelens serve` that limit its work."""

from __future__ import annotations

from typing import Annotated, Any

from limelens.cli.options import option


def _limit(help_: str, least: float = 1) -> Any:
    return option(help_, min=least, rich_help_panel="Limits")


MaxBatchSize = Annotated[
    int, _limit("Most images in one run on a GPU; on the CPU each runs alone.")
]
MaxQueue = Annotated[int, _limit("Images that may wait; more are refused.")]
MaxImages = Annotated[int, _limit("Images in one request.")]
MaxPixels = Annotated[int, _limit("Height times width of one image.")]
MaxDecodeS = Annotated[
    float, _limit("Seconds of CPU time for decoding one image, beyond those for its bytes.", 0.01)
]
MaxSamples = Annotated[int, _limit("Samples of one explanation.", 10)]
MaxMessageBytes = Annotated[int, _limit("Bytes of one request or response.", 1024)]
MaxWaitingBytes = Annotated[int, _limit("Bytes of all images that wait or are processed.")]
MaxCalls = Annotated[int, _limit("Calls and streams at a time.")]
MaxStreams = Annotated[int, _limit("Cameras at a time.", 0)]
MaxExplanations = Annotated[int, _limit("Explanations at a time.")]
MaxWaitingExplanations = Annotated[int, _limit("Explanations that wait; more are refused.", 0)]
StreamIdleS = Annotated[
    float, _limit("Seconds without sending or reading after which a camera's stream ends.", 0.1)
]
