"""MLServer: two parallel workers, gRPC; run without arguments it writes a request to stdout."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import handler
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Classifier(MLModel):
    """One handler in each worker."""

    async def load(self) -> bool:
        """Loads the model."""
        self.classify = handler.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities of the one image."""
        found = self.classify(bytes(payload.inputs[0].data.root[0]))
        output = ResponseOutput(
            name="probabilities", shape=[1, len(found)], datatype="FP32", data=found.tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def _serve(port: int) -> None:
    from mlserver import MLServer, ModelSettings, Settings

    settings = Settings(
        host="127.0.0.1",
        grpc_port=port,
        http_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=2,
        debug=False,
        logging_settings=None,
    )
    model = ModelSettings(name="peer", implementation="mlserver_app.Classifier")
    await MLServer(settings).start([model])


def _request(data: bytes) -> bytes:
    from mlserver.grpc import dataplane_pb2 as pb

    request = pb.ModelInferRequest(model_name="peer")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(data)
    return request.SerializeToString()


if __name__ == "__main__":
    if sys.argv[1] == "request":
        sys.stdout.buffer.write(_request(Path(sys.argv[2]).read_bytes()))
    else:
        asyncio.run(_serve(int(sys.argv[1])))
