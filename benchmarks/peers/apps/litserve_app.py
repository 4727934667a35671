"""LitServe: two worker processes, images as form data.

LitServe reads the annotations as objects, so they must not be postponed to strings.
"""

import sys

import handler
import litserve
from fastapi import Request


class Classifier(litserve.LitAPI):
    """One handler in each worker."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Loads the model."""
        self.classify = handler.load()

    def decode_request(self, request: Request) -> bytes:
        """The form's file."""
        return request["image"].file.read()

    def predict(self, data: bytes) -> list[float]:
        """Its probabilities."""
        return self.classify(data).tolist()

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """As JSON."""
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=2)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="error", generate_client_file=False
    )
