"""Ray Serve: two replicas, the image as the body."""

from __future__ import annotations

import signal
import sys
import threading

import handler
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(num_replicas=2, max_ongoing_requests=16, ray_actor_options={"num_cpus": 0.5})
class Classifier:
    """One handler in each replica."""

    def __init__(self) -> None:
        self.classify = handler.load()

    async def __call__(self, request: Request) -> JSONResponse:
        """Probabilities of the one image."""
        return JSONResponse({"probabilities": self.classify(await request.body()).tolist()})


if __name__ == "__main__":
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind())
    stopping.wait()
    serve.shutdown()
    ray.shutdown()
