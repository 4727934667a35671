"""Crowds that say nothing, against a server in a process of its own."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from limelens.serve import Client
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

_WANTED = 4000
_OTHERS = 500  # files and sockets that either process needs besides
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


@pytest.fixture
def address(one_model: Path) -> Iterator[str]:
    """A server that is a subprocess, started from a shell with the usual few files."""
    process = subprocess.Popen(
        [
            *("sh", "-c", 'ulimit -S -n 1024 && exec "$@"', "sh"),
            *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(one_model)),
            *("--listen", "127.0.0.1:0", "--device", "cpu", "--num-threads", "2"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split(" on ")[1].split()[0]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
def num_connections() -> Iterator[int]:
    """As many as are wanted, where this machine lets a process have so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _WANTED + _OTHERS
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield most - _OTHERS
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_unary_calls_succeed_beside_4000_silent_connections(
    num_connections: int, address: str
) -> None:
    if num_connections < 1000:
        pytest.skip(f"this machine allows {num_connections} connections; raise `ulimit -n`")
    host, port = address.split(":")
    with ExitStack() as silent, Client(address, timeout_s=60, max_attempts=1) as client:
        assert client.classify(RED)[0].label == "red"
        for _ in range(num_connections):
            silent.enter_context(socket.create_connection((host, int(port)), timeout=60))
        for _ in range(20):
            assert client.classify(RED)[0].label == "red"
        # A newcomer is answered too, on a connection of its own.
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, own) as channel:
            newcomer = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
            models = newcomer.ListModels(service_pb2.ListModelsRequest(), timeout=60)
            assert [model.name for model in models.models] == ["colours"]
