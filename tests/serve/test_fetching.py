from __future__ import annotations

import pytest

from limelens.serve.fetching import Network, network_of


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
