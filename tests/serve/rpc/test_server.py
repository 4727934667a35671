"""The life of a server: from its first line to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.conftest import Authority
from tests.ports import free_port
from tests.waiting import until, until_async

from limelens.serve import Client, load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.client import Tls as ClientTls
from limelens.serve.errors import BundleError, ListenError, UnavailableError
from limelens.serve.repository.model_version import LoadCounts, Snapshot
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc import open_calls
from limelens.serve.rpc import server as server_module
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.server import Server, ServerConfig, Tls
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.run_server import open_repository, serve
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# A server whose model holds green images until a line comes, so that calls can be under way.
HOLDING_SERVER = """
import sys
from limelens.serve.bundle import Bundle
from limelens.serve.rpc.server import ServerConfig
from limelens.serve.run_server import serve
predict = Bundle.predict
def held(self, images):
    if images[0, 0, 0, 1] == 255:
        print("busy", flush=True)
        sys.stdin.readline()
    return predict(self, images)
Bundle.predict = held
config = ServerConfig(models=sys.argv[1], listen="127.0.0.1:0", device="cpu", num_threads=2,
                      grace_s=float(sys.argv[2]))
sys.exit(serve(config, lambda line: print(line, flush=True)))
"""
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)


class Process:
    """`serve` in a process of its own."""

    def __init__(self, models: Path, *, grace_s: float = 60.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDING_SERVER, str(models), str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        assert self.line, self.process.communicate()[1]
        self.address = self.line.split(" on ")[1].split()[0]

    def until_busy(self) -> None:
        """Waits until the model runs for a green image."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "busy\n"

    def go_on(self) -> None:
        """Lets the model give what it holds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def start_process(one_model: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(**settings: float) -> Process:
        started.append(Process(one_model, **settings))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def health(address: str, service: str = "") -> Any:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_one_line_announces_the_models(start_process: Callable[..., Process]) -> None:
    process = start_process()
    assert process.line.startswith("limelens: serving colours 1 on 127.0.0.1:")
    assert process.line.endswith("(CPUExecutionProvider, 2 threads)\n")
    process.send_signal(signal.SIGINT)
    assert process.end() == (0, "")


def test_a_server_that_could_not_start_leaves_ctrl_c_as_it_was(
    one_model: Path, tmp_path: Path
) -> None:
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in handled]
    tls = Tls(tmp_path / "no.pem", tmp_path / "no.key")
    config = ServerConfig(models=one_model, listen="127.0.0.1:0", device="cpu", tls=tls)
    with pytest.raises(ListenError):
        serve(config)
    assert [signal.getsignal(number) for number in handled] == before


def test_calls_in_flight_finish_after_sigterm(start_process: Callable[..., Process]) -> None:
    process = start_process()
    states: list[Any] = []

    def watch() -> None:
        with grpc.insecure_channel(process.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                for answer in stub.Watch(health_pb2.HealthCheckRequest()):
                    states.append(answer.status)
            except grpc.RpcError:
                pass

    watching = threading.Thread(target=watch)
    watching.start()
    until(lambda: states == [SERVING])
    with (
        Client(process.address, max_attempts=1) as client,
        ThreadPoolExecutor(1) as pool,
    ):

        def is_refused() -> bool:
            try:
                client.classify(RED)
            except UnavailableError:
                return True
            return False

        answer = pool.submit(client.classify, GREEN)
        process.until_busy()
        process.send_signal()
        until(is_refused)
        until(lambda: states == [SERVING, NOT_SERVING])
        assert not answer.done()
        process.go_on()
        assert answer.result()[0].label == "green"
    assert process.end() == (0, "")
    watching.join()
    assert states == [SERVING, NOT_SERVING]


@pytest.mark.ci
def test_past_the_grace_time_calls_are_ended(start_process: Callable[..., Process]) -> None:
    process = start_process(grace_s=0.3)
    with Client(process.address, max_attempts=1) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.classify, GREEN)
        process.until_busy()
        process.send_signal()
        # The model still holds it.
        with pytest.raises(UnavailableError):
            call.result()
    process.go_on()
    assert process.end()[0] == 0


def test_a_watcher_of_the_health_does_not_hold_the_server(start_server: Callable[..., Any]) -> None:
    server = start_server()
    with grpc.insecure_channel(server.address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == SERVING
        with ThreadPoolExecutor(1) as pool:
            then = pool.submit(next, watching)
            began = time.monotonic()
            server.stop(grace_s=60)
            assert time.monotonic() - began < 30
            assert then.result().status == NOT_SERVING


def test_health_is_reported_for_all_and_for_the_service(start_server: Callable[..., Any]) -> None:
    address = start_server().address
    assert health(address) == SERVING
    assert health(address, "limelens.v1.ClassifierService") == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health(address, "nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def listed(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (answer,) = call(iter([request]))
        return [service.name for service in answer.list_services_response.service]


def test_reflection_can_be_turned_off(start_server: Callable[..., Any]) -> None:
    assert "limelens.v1.ClassifierService" in listed(start_server().address)
    with pytest.raises(grpc.RpcError) as caught:
        listed(start_server(reflection=False).address)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_taken_port_is_an_error_with_advice(one_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"cannot listen on {address}: the port is taken"):
            serve(ServerConfig(models=one_model, listen=address, device="cpu"))


def test_two_servers_do_not_share_a_port(start_server: Callable[..., Any]) -> None:
    address = start_server().address
    with pytest.raises(ListenError, match="the port is taken"):
        start_server(listen=address)


def test_a_missing_folder_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such folder; expected models as"):
        serve(ServerConfig(models=tmp_path / "nothing"))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.168.1.5:8500", "example.org:1"])
def test_plaintext_beyond_loopback_is_refused(listen: str, one_model: Path) -> None:
    with pytest.raises(ListenError, match="--insecure"):
        serve(ServerConfig(models=one_model, listen=listen))


def threads() -> set[str]:
    """Those of limelens; others begin theirs when they like."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith("limelens")}


def is_free(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_server(("127.0.0.1", port)).close()
        return True
    return False


@pytest.mark.parametrize("which", ["listen", "http", "health_listen"])
def test_a_server_that_cannot_listen_frees_its_resources(which: str, one_model: Path) -> None:
    ports = {name: free_port() for name in ("listen", "http", "health_listen") if name != which}
    addresses: dict[str, Any] = {name: f"127.0.0.1:{port}" for name, port in ports.items()}

    async def attempt() -> None:
        with pytest.raises(ListenError, match=str(addresses[which])):
            Server(config, repository)
        for port in ports.values():
            await until_async(functools.partial(is_free, port))

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        addresses[which] = f"127.0.0.1:{taken.getsockname()[1]}"
        config = ServerConfig(models=one_model, device="cpu", num_threads=1, **addresses)
        repository = open_repository(config)
        before = threads()
        asyncio.run(attempt())
    assert threads() <= before


def test_a_stopped_server_gets_no_more_notifications(
    start_server: Callable[..., Any],
) -> None:
    server = start_server()
    assert server.repository.num_subscribers == 1
    server.stop()
    assert server.repository.num_subscribers == 0


@pytest.mark.parametrize("which", ["health_listen", "http"])
def test_an_impossible_probe_address_is_refused_before_models_load(
    which: str, tmp_path: Path
) -> None:
    addresses: dict[str, Any] = {which: "8502"}
    with pytest.raises(ListenError, match="expected HOST:PORT"):
        serve(ServerConfig(models=tmp_path / "nowhere", **addresses))


@pytest.mark.parametrize("listen", ["8500", "localhost", "localhost:http", ":8500", "a:99999"])
def test_an_impossible_address_is_refused(listen: str, one_model: Path) -> None:
    with pytest.raises(ListenError, match="expected HOST:PORT"):
        serve(ServerConfig(models=one_model, listen=listen, insecure=True))


def test_plaintext_beyond_loopback_needs_an_option(start_server: Callable[..., Any]) -> None:
    server = start_server(listen="0.0.0.0:0", insecure=True)
    with Client(server.address.replace("0.0.0.0", "127.0.0.1")) as client:
        assert client.classify(RED)[0].label == "red"


@pytest.mark.ci
def test_a_new_version_takes_over_without_a_failed_call(
    start_server: Callable[..., Any], tmp_path: Path, bundles: Any
) -> None:
    first = bundles.save(tmp_path, bundles.metadata(), 1)
    server = start_server(tmp_path, reload_s=0.05)
    versions: list[int] = []
    stop = threading.Event()

    def call() -> None:
        with Client(server.address, max_attempts=1) as client:
            while not stop.is_set():
                versions.append(client.classify(RED).model.version)

    calling = threading.Thread(target=call)
    calling.start()
    until(lambda: versions)
    bad = tmp_path / "colours" / "2" / "model.onnx"
    bad.parent.mkdir()
    bad.write_bytes(first.read_bytes()[:400])
    until(lambda: server.repository.load_counts.rejected)
    assert versions[-1] == 1
    bad.write_bytes(first.read_bytes())
    until(lambda: versions[-1] == 2)
    stop.set()
    calling.join()
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_the_server_leaves_no_threads_behind(start_server: Callable[..., Any]) -> None:
    before = set(threading.enumerate())
    server = start_server()
    with Client(server.address) as client:
        client.classify(RED)
    server.stop()

    def left() -> list[str]:
        names = [one.name for one in threading.enumerate() if one not in before]
        return [name for name in names if name.startswith("limelens-")]

    until(lambda: not left())  # those that nobody waits for end by themselves


def test_tls_protects_the_connection(start_server: Callable[..., Any], certificates: Path) -> None:
    tls = Tls(certificates / "server.pem", certificates / "server.key")
    server = start_server(listen="0.0.0.0:0", tls=tls)
    address = server.address.replace("0.0.0.0", "localhost")
    with Client(address, tls=ClientTls(ca=certificates / "ca.pem")) as client:
        assert client.classify(RED)[0].label == "red"
    with Client(address, max_attempts=1) as client, pytest.raises(UnavailableError):
        client.classify(RED)


def test_clients_without_a_required_certificate_are_refused(
    start_server: Callable[..., Any], certificates: Path
) -> None:
    tls = Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    server = start_server(listen="localhost:0", tls=tls)
    own = ClientTls(
        certificates / "ca.pem", certificates / "client.pem", certificates / "client.key"
    )
    with Client(server.address, tls=own) as client:
        assert client.classify(RED)[0].label == "red"
    nobody = ClientTls(certificates / "ca.pem")
    with (
        Client(server.address, tls=nobody, max_attempts=1) as client,
        pytest.raises(UnavailableError),
    ):
        client.classify(RED)


def test_a_renewed_certificate_is_used_for_new_connections(
    start_server: Callable[..., Any], certificates: Path, tmp_path: Path
) -> None:
    for name in ("server.pem", "server.key"):
        shutil.copy(certificates / name, tmp_path / name)
    server = start_server(
        listen="localhost:0", tls=Tls(tmp_path / "server.pem", tmp_path / "server.key")
    )
    with Client(server.address, tls=ClientTls(ca=certificates / "ca.pem")) as before:
        assert before.classify(RED)[0].label == "red"
        Authority(tmp_path, "other").issue("server")
        with Client(server.address, tls=ClientTls(ca=tmp_path / "other.pem")) as after:
            assert after.classify(RED)[0].label == "red"
        assert before.classify(RED)[0].label == "red"


def test_a_missing_certificate_is_an_error_that_names_it(one_model: Path, tmp_path: Path) -> None:
    tls = Tls(tmp_path / "a.pem", tmp_path / "a.key")
    with pytest.raises(ListenError, match=r"a\.key: No such file"):
        serve(ServerConfig(models=one_model, listen="127.0.0.1:0", tls=tls, device="cpu"))


def test_a_unix_socket_can_be_listened_on(start_server: Callable[..., Any], tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    server = start_server(listen=path)
    assert server.address == path
    with Client(path) as client:
        assert client.classify(RED)[0].label == "red"


def test_a_socket_that_another_server_answers_on_is_not_taken_from_it(
    start_server: Callable[..., Any], one_model: Path, tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/s"
    start_server(listen=path)
    with pytest.raises(ListenError, match="another server answers there"):
        serve(ServerConfig(models=one_model, listen=path, device="cpu"))
    with Client(path) as client:
        assert client.classify(RED)[0].label == "red"


def test_a_socket_whose_owner_is_too_busy_to_answer_is_not_taken(
    one_model: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waits:
        busy.bind(path)
        busy.listen(0)
        waits.connect(path)
        with pytest.raises(ListenError, match="another server answers there"):
            serve(ServerConfig(models=one_model, listen=f"unix:{path}", device="cpu"))


def test_a_socket_with_too_long_a_path_is_refused(one_model: Path, tmp_path: Path) -> None:
    path = tmp_path / ("s" * 150)
    with pytest.raises(ListenError, match="path too long"):
        serve(ServerConfig(models=one_model, listen=f"unix:{path}", device="cpu"))


def test_draining_is_part_of_the_grace_period(
    one_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent_s = 0.0

    async def drain(max_s: float) -> None:
        nonlocal spent_s
        spent_s = max_s

    async def start_and_stop() -> float:
        config = ServerConfig(models=one_model, listen="127.0.0.1:0", device="cpu")
        server = Server(config, open_repository(config))
        await server.start()

        async def call() -> None:
            server.open_calls.arrived()
            await asyncio.Event().wait()

        calling = asyncio.create_task(call())
        monkeypatch.setattr(server_module, "MAX_DRAIN_S", 600.0)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + spent_s)
        monkeypatch.setattr(server_module, "time", clock)
        monkeypatch.setattr(server.open_calls, "drain", drain)
        began = time.monotonic()
        await server.stop(600.0)
        took_s = time.monotonic() - began
        assert server.open_calls.count == 1
        calling.cancel()
        return took_s

    # Draining took all of it, so that nothing is left to wait for the call.
    assert asyncio.run(start_and_stop()) < 300


@pytest.mark.parametrize("listen", ["unix:", "unix:/no/such/folder/s"])
def test_an_impossible_socket_is_refused(one_model: Path, listen: str) -> None:
    with pytest.raises(ListenError, match="expected unix:PATH in a folder that exists"):
        serve(ServerConfig(models=one_model, listen=listen, device="cpu"))


def test_a_draining_server_accepts_late_calls_and_then_refuses(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as this test takes to call.
    monkeypatch.setattr(server_module, "MAX_DRAIN_S", 60.0)
    for name in ("ACCEPTING_POLLS", "QUIET_POLLS"):
        monkeypatch.setattr(open_calls, name, 10**6)
    server = start_server()
    with (
        Client(server.address, max_attempts=1) as client,
        ThreadPoolExecutor(1) as pool,
        grpc.insecure_channel(server.address) as channel,
    ):
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == SERVING
        stopping = pool.submit(server.stop, 60)
        assert next(states).status == NOT_SERVING
        assert client.classify(RED)[0].label == "red"
        monkeypatch.setattr(open_calls, "ACCEPTING_POLLS", 0)

        def is_refused() -> bool:
            try:
                client.classify(RED)
            except UnavailableError as error:
                return str(error) == "the server is going down"
            return False

        until(is_refused)
        monkeypatch.setattr(open_calls, "QUIET_POLLS", 10)
        stopping.result()


def test_a_queue_that_is_shorter_than_a_request_limits_requests(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(service=ServiceSettings(max_queue=4))
    with Client(server.address, max_attempts=1) as client:
        assert client.model().max_images == 4
        assert len(client.classify([RED] * 9)) == 9  # in several requests
    request = service_pb2.ClassifyRequest(images=[image_pb2.Image(encoded=b"x")] * 5)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub().Classify(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected 1 to 4" in (caught.value.details() or "")


def test_many_silent_connections_leave_others_alone(start_server: Callable[..., Any]) -> None:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    server = start_server()
    host, port = server.address.split(":")
    count = min(1000, soft // 3)
    silent = [socket.create_connection((host, int(port))) for _ in range(count)]
    try:
        with Client(server.address) as client:
            assert client.classify(RED)[0].label == "red"
    finally:
        for one in silent:
            one.close()


@pytest.mark.parametrize("method", ["Classify", "Explain", "ExplainStream", "ListModels"])
def test_a_call_that_never_sends_its_request_is_ended(
    start_server: Callable[..., Any], method: str
) -> None:
    server = start_server(service=ServiceSettings(stream_idle_s=0.2))
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(60)
        yield from ()

    with grpc.insecure_channel(server.address) as channel:
        begin: grpc.StreamStreamMultiCallable[bytes, bytes]
        begin = channel.stream_stream(f"/limelens.v1.ClassifierService/{method}")
        call = begin(nothing())
        with pytest.raises(grpc.RpcError) as ended:
            next(call)
        silent.set()
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ended.value.details() == "no request for 0.2 seconds; expected one message"
    until(lambda: not server.server.open_calls.count)  # its place is free again


class NoModels(ModelRegistry):
    """A repository without models."""

    snapshot: Snapshot = {}  # noqa: RUF012
    load_counts = LoadCounts()

    def record(self, bundle: Bundle, *, ok: bool) -> None:
        pass


def test_concurrent_threads_get_the_same_engine(one_model: Path) -> None:
    """Explanation threads do so; nobody would end the threads of a second engine."""
    bundle = load_bundle(one_model / "colours" / "1", "cpu", num_threads=1)
    together = threading.Barrier(8)

    def ask(runner: ModelRunner) -> int:
        together.wait()
        return id(runner.engine(bundle))

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(20):
                runner = ModelRunner(NoModels(), ServiceSettings())
                assert len(set(pool.map(ask, [runner] * 8))) == 1
                runner.close()
    finally:
        sys.setswitchinterval(often)


def test_empty_messages_are_valid_requests(start_server: Callable[..., Any]) -> None:
    stub = start_server().stub()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(service_pb2.ClassifyRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert stub.ListModels(service_pb2.ListModelsRequest()).models[0].name == "colours"
