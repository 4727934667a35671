"""Cameras, videos and folders of images as frames for `Client.stream`.

    with Client("127.0.0.1:8500") as client, open_source("rtsp://door/live") as source:
        for found in watch(client, source, camera_id="door", smoothing=(5, 3)):
            print(found.answer.smoothed_label, found.answer.alert)

Videos and cameras need `limelens[camera]`, folders of images do not. It knows nothing of models
and decisions.
"""

from limelens.serve.tools.camera.faults import LossReason, SourceError
from limelens.serve.tools.camera.opening import open_source
from limelens.serve.tools.camera.source import Source
from limelens.serve.tools.camera.state import StateKeeper, StateReport
from limelens.serve.tools.camera.watching import SourceAnswer, watch

__all__ = [
    "LossReason",
    "Source",
    "SourceAnswer",
    "SourceError",
    "StateKeeper",
    "StateReport",
    "open_source",
    "watch",
]
