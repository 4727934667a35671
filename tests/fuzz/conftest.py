"""A real server with two models and a detector, and a caller of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.detectors import save_detector

from fuzz.calling import Caller
from limelens.serve.rpc.server_config import Limits, ServiceSettings

MOST_SAMPLES = 50


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_detector(tmp_path_factory.mktemp("detector")))


@pytest.fixture
def server(start_server: Callable[..., Any], models: Path, detector: str) -> Any:
    """Explains with few samples: it is not the explanation that is tested."""
    limits = Limits(max_images=8, max_pixels=100_000, max_samples=MOST_SAMPLES)
    return start_server(models, service=ServiceSettings(limits=limits), face_detector=detector)


@pytest.fixture
def caller(server: Any) -> Iterator[Caller]:
    with Caller(server.address) as caller:
        yield caller
