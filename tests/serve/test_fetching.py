from __future__ import annotations

import asyncio
import gc
import socket
import threading

import pytest
from tests.waiting import PATIENCE_S

from limelens.serve.fetching import Fetcher, FetchError, FetchLimits, Network, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("93.184.216.34", Network.INTERNET),
        ("2606:2800:220:1::1", Network.INTERNET),
        ("10.1.2.3", Network.PRIVATE),
        ("100.64.0.1", Network.PRIVATE),
        ("fd00::1", Network.PRIVATE),
        ("127.9.9.9", Network.MACHINE),
        ("0.0.0.0", Network.MACHINE),
        ("::1", Network.MACHINE),
        ("::ffff:127.0.0.1", Network.MACHINE),
        ("169.254.169.254", Network.LINK),
        ("::ffff:169.254.169.254", Network.LINK),
        ("fe80::1%eth0", Network.LINK),
    ],
)
def test_networks_are_told_apart(address: str, network: Network) -> None:
    assert network_of(address) is network


def test_a_handshake_that_is_given_up_leaves_no_connection_open() -> None:
    hello = bytearray()

    async def fetch(url: str, reading: threading.Thread) -> None:
        async with Fetcher(FetchLimits(timeout_s=0.5, num_retries=0)) as fetcher:
            with pytest.raises(FetchError, match=r"in time|no complete response"):
                await fetcher.fetch(url)
            # While the loop goes on, which closes what is left when it ends.
            await asyncio.to_thread(reading.join, PATIENCE_S)
            assert not reading.is_alive()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_S)

        def read_to_the_end() -> None:
            connection, _ = silent.accept()
            with connection:
                while received := connection.recv(4096):
                    hello.extend(received)

        reading = threading.Thread(target=read_to_the_end, daemon=True)
        reading.start()
        gc.disable()  # which would close it sooner or later
        try:
            asyncio.run(fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/a.jpg", reading))
        finally:
            gc.enable()
    assert hello
