"""What every peer runs: JPEG in, decoded, resized, one run of onnxruntime. Of no server."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np
import onnxruntime
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

    def classify(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as picture:
            seen = picture.convert("RGB").resize(
                (width, height), Image.Resampling.BILINEAR, reducing_gap=3.0
            )
        pixels = np.asarray(seen)[np.newaxis]
        return session.run(["probabilities"], {"images": pixels})[0][0]

    return classify
