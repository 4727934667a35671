"""Triton through PyTriton: two instances, gRPC; with `request` it writes a request to stdout."""

from __future__ import annotations

import sys
from pathlib import Path

import handler
import numpy as np


def _serve(port: int) -> None:
    from pytriton.decorators import sample
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    def instance():
        classify = handler.load()

        @sample
        def infer(image: np.ndarray) -> dict[str, np.ndarray]:
            return {"probabilities": classify(bytes(image[0]))}

        return infer

    config = TritonConfig(
        grpc_port=port,
        http_port=port + 1,
        metrics_port=port + 2,
        log_verbose=0,
        exit_timeout_secs=5,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="peer",
            infer_func=[instance(), instance()],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()


def _request(data: bytes) -> bytes:
    from tritonclient.grpc import InferInput
    from tritonclient.grpc._utils import _get_inference_request

    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    return _get_inference_request(
        model_name="peer",
        inputs=[tensor],
        model_version="",
        request_id="",
        outputs=None,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        parameters=None,
    ).SerializeToString()


if __name__ == "__main__":
    if sys.argv[1] == "request":
        sys.stdout.buffer.write(_request(Path(sys.argv[2]).read_bytes()))
    else:
        _serve(int(sys.argv[1]))
