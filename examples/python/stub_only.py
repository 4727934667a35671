"""Classifies and explains an image with nothing but the generated stubs of the contract.

A client in any language does the same; `limelens.serve.Client` is easier to use.

    python stub_only.py 127.0.0.1:8500 door.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc

from limelens.v1.classifier_service_pb2 import ClassifyRequest, ExplainRequest
from limelens.v1.classifier_service_pb2_grpc import ClassifierServiceStub
from limelens.v1.explanation_pb2 import PICTURE_OVERLAY
from limelens.v1.image_pb2 import Image


def main(address: str, path: str) -> int:
    """Prints the image's label and its explanation, and writes why.png."""
    image = Image(encoded=Path(path).read_bytes())
    with grpc.insecure_channel(address) as channel:
        stub = ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]  # as generated
        try:
            reply = stub.Classify(ClassifyRequest(images=[image], top_k=1), timeout=30)
            why = stub.Explain(
                ExplainRequest(image=image, num_samples=300, pictures=[PICTURE_OVERLAY]), timeout=60
            )
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    score = reply.predictions[0].scores[0]
    print(f"{path}: {score.label} {score.probability:.3f} ({reply.model.name})")
    best = why.explanations[0]
    print(f"{best.label}: strongest segment {best.weights[0].segment}, R² {best.score:.2f}")
    Path("why.png").write_bytes(best.overlay_png)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python stub_only.py HOST:PORT IMAGE")
    sys.exit(main(sys.argv[1], sys.argv[2]))
