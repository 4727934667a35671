"""Which part of the machine each process gets, and how they share a port and a number."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from limelens.serve.addresses import parse_address
from limelens.serve.bundle.devices import parse_devices
from limelens.serve.errors import InvalidRequestError, ListenError
from limelens.serve.processes import layout
from limelens.serve.processes.device_process import owned_device
from limelens.serve.processes.layout import default_processes, devices_to_own, share_of
from limelens.serve.processes.messages import Epoch
from limelens.serve.processes.port import held
from limelens.serve.rpc.server_config import Limits, ServerConfig, ServiceSettings


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, 1), (2, 1), (4, 1), (5, 3), (6, 3), (12, 6), (16, 8), (64, 32)]
)
def test_few_cores_need_one_process_and_many_one_for_every_two(cores: int, expected: int) -> None:
    assert default_processes("127.0.0.1:0", "cpu", cores) == expected


def test_a_gpu_gets_a_process_for_every_two_cores_and_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, expected in ((2, 1), (8, 4), (16, 6), (64, 6)):
        monkeypatch.setattr(layout, "usable_cores", lambda cores=cores: cores)
        assert default_processes("127.0.0.1:0", "cuda", None) == expected
    monkeypatch.setattr(layout, "usable_cores", lambda: 2)
    assert default_processes("127.0.0.1:0", "cuda:0,1", None) == 2


def test_a_socket_of_the_file_system_has_one_process() -> None:
    assert default_processes("unix:/run/limelens", "cpu", 64) == 1


def test_cores_follow_affinity_and_the_quota_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(layout, "_CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert layout.usable_cores() == 8
    for text, expected in (("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1)):
        limit.write_text(text + "\n")
        assert layout.usable_cores() == expected


def test_threads_add_up_and_devices_take_turns() -> None:
    config = ServerConfig(Path("models"), device="cuda:0,2", processes=3, num_threads=8)
    shares = [share_of(config, number) for number in (1, 2, 3)]
    assert [one.num_threads for one in shares] == [3, 3, 2]
    assert [one.device for one in shares] == ["cuda:0", "cuda:2", "cuda:0"]


def test_without_a_gpu_the_cpu_is_owned_only_if_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def owned(device: str, *, device_process: bool = True) -> tuple[str, ...]:
        config = ServerConfig(Path("models"), device=device, device_process=device_process)
        return devices_to_own(config)

    monkeypatch.setattr(layout, "_may_have_cuda", lambda: False)
    assert owned("auto") == ()
    assert owned("cpu") == ("cpu",)
    monkeypatch.setattr(layout, "_may_have_cuda", lambda: True)
    assert owned("auto") == ("auto",)
    assert owned("cuda:0,2") == ("cuda:0", "cuda:2")
    assert owned("cuda", device_process=False) == ()


def test_workers_take_turns_at_the_owners_of_devices() -> None:
    config = ServerConfig(Path("models"), device="cuda:0,1", processes=3, device_process=True)
    with owned_device("cuda:0") as first, owned_device("cuda:1") as second:
        shares = [share_of(config, number, [first, second]) for number in (1, 2, 3)]
        assert [one.device for one in shares] == [first.name, second.name, first.name]
        assert first.name != second.name


def test_limits_on_work_are_divided_and_every_request_still_fits() -> None:
    service = ServiceSettings(limits=Limits(max_images=64), max_queue=100, max_explanations=1)
    share = share_of(ServerConfig(Path("models"), processes=4, service=service), 1)
    assert share.max_calls == 512
    assert share.service.max_streams == 250
    assert share.service.max_queue == 100
    assert share.service.max_explanations == 1
    assert share.service.request_limits == service.request_limits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto",)),
        ("cpu", ("cpu",)),
        ("cuda", ("cuda",)),
        ("cuda:1", ("cuda:1",)),
        ("cuda:0,1", ("cuda:0", "cuda:1")),
    ],
)
def test_devices_are_read(text: str, expected: tuple[str, ...]) -> None:
    assert parse_devices(text) == expected


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:a", "cuda:0,0", "cuda:-1", "cpu:0"])
def test_unknown_devices_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected auto, cpu, cuda"):
        parse_devices(text)


def listen_beside(address: str) -> socket.socket:
    """As a worker does."""
    joined = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        joined.setsockopt(socket.SOL_SOCKET, option, 1)
    joined.bind(parse_address(address))
    joined.listen()
    return joined


def test_a_port_that_is_held_is_joined_by_workers_and_by_no_other_server() -> None:
    with held("127.0.0.1:0") as address:
        for _ in range(2):  # before a worker listens, and while one does
            with pytest.raises(ListenError, match="the port is taken"), held(address):
                pass
            with listen_beside(address), listen_beside(address), pytest.raises(ListenError):
                held(address).__enter__()
        assert int(address.rpartition(":")[2]) > 0
    with held(address) as again:
        assert again == address


def test_a_port_is_held_while_connections_of_a_server_that_is_gone_linger() -> None:
    with held("127.0.0.1:0") as address, listen_beside(address) as listening:
        calling = socket.create_connection(parse_address(address))
        answering, _ = listening.accept()
        answering.close()  # the one that closes first is the one that lingers
        calling.close()
    with held(address) as again:
        assert again == address


def test_a_port_of_another_program_is_not_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match="--health-listen"):
            held(address, option="--health-listen").__enter__()
    with pytest.raises(ListenError, match="not this machine's"):
        held("192.0.2.1:0").__enter__()


def test_a_number_is_read_by_others_as_soon_as_it_is_written() -> None:
    writing = Epoch()
    reading = Epoch(os.dup(writing.file))
    assert reading.read() == 0
    writing.write(2**40)
    assert reading.read() == 2**40
