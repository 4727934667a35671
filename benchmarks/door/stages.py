"""What each step of a frame costs alone: CPU time of one thread for one frame of 640x480."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from benchmarks.door.people import REGION, Person
from limelens.serve.bundle import Bundle
from limelens.serve.image import read_fitted

_REPEATS: Final = 60


def stages(person: Person, bundle: Bundle) -> dict[str, float]:
    """CPU milliseconds of each step, by its name."""
    import av

    from limelens.serve.tools.camera.video import to_jpeg

    jpeg = person.frames[0]
    codec = av.VideoCodecContext.create("mjpeg", "r")

    def decode() -> list[av.VideoFrame]:
        return codec.decode(av.Packet(jpeg))

    [decoded] = decode()

    rule = bundle.metadata.resize
    pixels = read_fitted(jpeg, rule, REGION)
    return {
        "watch: the camera's frame decoded": _cpu_ms(decode),
        "watch: encoded as JPEG": _cpu_ms(lambda: to_jpeg(decoded, 90)),
        "server: decoded and fitted": _cpu_ms(lambda: read_fitted(jpeg, rule, REGION)),
        "server: the model": _cpu_ms(lambda: bundle.predict(np.stack([pixels]))),
    }


def _cpu_ms(run: Callable[[], object]) -> float:
    for _ in range(5):
        run()
    began = time.process_time()
    for _ in range(_REPEATS):
        run()
    return 1000 * (time.process_time() - began) / _REPEATS
