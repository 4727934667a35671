"""Cameras, videos and folders of images as frames for `Client.stream`.

    with Client("127.0.0.1:8500") as client, open_source("rtsp://door/live") as source:
        for seen in watch(client, source, camera_id="door", smoothing=(5, 3)):
            print(seen.answer.smoothed_label, seen.answer.alert)

Videos and cameras need `limelens[camera]`; folders of images do not. This package knows where
frames come from, but not models and decisions.
"""

from limelens.serve.tools.camera.places import SourceError
from limelens.serve.tools.camera.source import Source, open_source
from limelens.serve.tools.camera.watching import Seen, watch

__all__ = ["Seen", "Source", "SourceError", "open_source", "watch"]
