"""KServe: gRPC, two threads; with `request` it writes a request to stdout."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import handler
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Classifier(Model):
    """One session, called from two threads."""

    def __init__(self) -> None:
        super().__init__("peer")
        self.classify = handler.load()
        self.pool = ThreadPoolExecutor(2)
        self.ready = True

    async def predict(self, payload: InferRequest, *_headers: object, **_more: object):
        """Probabilities of the one image."""
        data = payload.inputs[0].data[0]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.pool, self.classify, data)
        output = InferOutput("probabilities", [1, len(found)], "FP32", data=found.tolist())
        return InferResponse(payload.id or "1", "peer", [output])


def _request(data: bytes) -> bytes:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    request = pb.ModelInferRequest(model_name="peer")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(data)
    return request.SerializeToString()


if __name__ == "__main__":
    if sys.argv[1] == "request":
        sys.stdout.buffer.write(_request(Path(sys.argv[2]).read_bytes()))
    else:
        port = int(sys.argv[1])
        ModelServer(http_port=port + 1, grpc_port=port, workers=1, access_log_format=None).start(
            [Classifier()]
        )
