"""Both clients over the same cases: results, retries, credentials."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.waiting import until, until_async

from limelens.serve import AsyncClient, Client
from limelens.serve.addresses import is_loopback
from limelens.serve.client import Connection, Tls
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.rpc.server import Tls as ServerTls

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)
SCENE = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
EXPLAIN: Any = {"num_samples": 60, "segmentation": "grid", "num_segments": 9, "seed": 5}


def jpeg(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def test_every_call_gives_plain_values(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    client = connect(start_server().address)
    path = tmp_path / "green.jpg"
    path.write_bytes(jpeg(GREEN))
    found = client.classify([RED, path, jpeg(RED)], top_k=2)
    assert [one.label for one in found] == ["red", "green", "red"]
    assert [len(one.scores) for one in found] == [2, 2, 2]
    assert found.model.name == "colours"
    assert client.classify(str(path), threshold=1.0)[0].label is None
    assert len(client.classify(RED, embedding=True)[0].embedding) == 3
    vectors = client.embed([RED, GREEN], normalize=True).vectors
    np.testing.assert_allclose(vectors, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    why = client.explain(SCENE, labels=["red"], renderings=["overlay"], **EXPLAIN)
    assert why.explanations[0].label == "red"
    assert why.explanations[0].overlay_png.startswith(b"\x89PNG")
    updates = list(client.explain_stream(SCENE, labels=["red"], **EXPLAIN))
    assert updates[-1].is_final
    assert updates[-1].explanation.explanations[0].weights == why.explanations[0].weights
    assert [one.name for one in client.models()] == ["colours"]
    assert client.model("colours", 1).card
    answers = list(client.stream([RED, GREEN], drop_old=False))
    assert [one.smoothed_label for one in answers] == ["red", "green"]


def test_each_kind_of_error_has_its_class(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    client = connect(start_server().address)
    with pytest.raises(NotFoundError, match="there is colours"):
        client.model("cats")
    with pytest.raises(InvalidRequestError, match=r"images\[1\].encoded: not a supported image"):
        client.classify([RED, b"no image"])
    with pytest.raises(InvalidRequestError, match="expected uint8"):
        client.classify(RED.astype(np.float32))
    with pytest.raises(InvalidRequestError, match="0 images"):
        client.classify([])
    with pytest.raises(FileNotFoundError):
        client.embed(tmp_path / "nothing.jpg")
    with pytest.raises(TypeError, match="depth"):
        client.explain(RED, depth=3)
    for ask in (client.classify, client.embed, client.stream, client.model):
        with pytest.raises(TypeError, match="depth"):
            list(ask([RED], depth=3))
    with pytest.raises(UnavailableError):
        connect("127.0.0.1:1", max_attempts=1).models()


def test_a_deadline_ends_a_call(
    start_server: Callable[..., Any], connect: Callable[..., Any], gate: Any
) -> None:
    client = connect(start_server().address, timeout_s=0.2)
    assert client.classify(RED, timeout_s=60)[0].label == "red"
    gate.opened.clear()
    for ask in (lambda: client.classify(RED), lambda: list(client.explain_stream(RED))):
        with pytest.raises(ExpiredError):
            ask()


def test_a_deadline_of_zero_expires(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    client = connect(start_server().address)
    with pytest.raises(ExpiredError):
        client.classify(RED, timeout_s=0)


def test_the_request_id_reaches_the_server(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    client = connect(server.address)
    client.classify(RED, request_id="order-17")
    client.models(request_id="order-18")
    list(client.explain_stream(SCENE, request_id="order-19", **EXPLAIN))
    list(client.stream([RED], request_id="order-20"))
    client.embed(RED)
    ids = [metadata.get("x-request-id") for _, metadata, _ in server.witness.calls]
    assert ids == ["order-17", "order-18", "order-19", "order-20", None]
    with pytest.raises(InvalidRequestError, match=r"request_id: .*expected 1 to 64"):
        client.classify(RED, request_id="two\nlines")


def test_a_token_goes_with_every_call_and_is_fresh(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    given = iter(range(100))
    client = connect(server.address, token=lambda: f"secret-{next(given)}")
    client.classify(RED)
    client.embed(RED)
    client.explain(SCENE, **EXPLAIN)
    list(client.explain_stream(SCENE, **EXPLAIN))
    client.models()
    list(client.stream([RED]))
    sent = [metadata["authorization"] for _, metadata, _ in server.witness.calls]
    assert sent == [f"Bearer secret-{number}" for number in range(6)]
    server.witness.calls.clear()
    connect(server.address, token="fixed").models()
    connect(server.address).models()
    sent = [metadata.get("authorization") for _, metadata, _ in server.witness.calls]
    assert sent == ["Bearer fixed", None]


def test_an_asynchronous_token_is_for_the_asynchronous_client(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any], kind: str
) -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return "late"

    server = start_witnessed()
    client = connect(server.address, token=token)
    if kind == "AsyncClient":
        client.models()
        assert server.witness.calls[0][1]["authorization"] == "Bearer late"
    else:
        with pytest.raises(InvalidRequestError, match="asynchronous; expected a plain one"):
            client.models()


def test_a_token_never_goes_to_others_in_plaintext(connect: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequestError, match="anybody in between can read it"):
        connect("classifier.example.com:8500", token="secret")
    for settings in ({"insecure_token": True}, {"tls": Tls()}):
        assert connect("classifier.example.com:8500", token="secret", **settings) is not None
    assert "secret" not in repr(Connection("127.0.0.1:1", token="secret"))


def test_a_token_that_cannot_be_a_header_is_refused_and_not_shown(
    connect: Callable[..., Any],
) -> None:
    with pytest.raises(InvalidRequestError, match="7 characters; expected printable") as caught:
        connect("127.0.0.1:1", token="secret\n").models()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:8500", True),
        ("127.3.2.1", True),
        ("localhost:8500", True),
        ("[::1]:8500", True),
        ("::1", True),
        ("unix:/run/limelens.sock", True),
        ("unix-abstract:limelens", True),
        ("dns:///localhost:8500", True),
        ("dns:localhost", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv6:[::1]:1,[::1]:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.7:2", False),
        ("dns://10.0.0.1/localhost:8500", False),
        ("dns:///door.example.com:8500", False),
        ("localhost.example.com:8500", False),
        ("10.0.0.7:8500", False),
        ("0.0.0.0:8500", False),
        ("[fe80::1]:8500", False),
        ("xds:///localhost", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine_are_known(address: str, is_here: bool) -> None:
    assert is_loopback(address) is is_here


def test_tls_with_a_client_certificate_works(
    start_server: Callable[..., Any], connect: Callable[..., Any], certificates: Path
) -> None:
    def file(name: str) -> Path:
        return certificates / name

    tls = ServerTls(file("server.pem"), file("server.key"), file("ca.pem"))
    address = start_server(listen="localhost:0", tls=tls).address
    own = Tls(file("ca.pem"), file("client.pem"), file("client.key"))
    assert connect(address, tls=own, token="secret").classify(RED)[0].label == "red"
    for other in (None, Tls(file("ca.pem")), Tls(file("client.pem"), own.certificate, own.key)):
        with pytest.raises(UnavailableError):
            connect(address, tls=other, max_attempts=1).classify(RED)
    with pytest.raises(InvalidRequestError, match="a certificate without its key"):
        connect(address, tls=Tls(file("ca.pem"), file("client.pem")))
    with pytest.raises(FileNotFoundError):
        connect(address, tls=Tls(file("nothing.pem")))


def test_a_unix_socket_is_an_address(
    start_server: Callable[..., Any], connect: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server(listen=f"unix:{tmp_path}/s")
    assert connect(server.address, token="secret").classify(RED)[0].label == "red"


def test_calls_go_to_several_servers_in_turn(
    start_witnessed: Callable[..., Any],
    connect: Callable[..., Any],
) -> None:
    servers = [start_witnessed(), start_witnessed()]
    address = "ipv4:" + ",".join(one.address for one in servers)
    client = connect(address, load_balancing="round_robin")

    def both_are_asked() -> bool:
        client.models()
        return all(one.witness.calls for one in servers)

    until(both_are_asked)
    before = [len(one.witness.calls) for one in servers]
    for _ in range(10):
        client.models()
    after = [len(one.witness.calls) for one in servers]
    assert [later - earlier for later, earlier in zip(after, before, strict=True)] == [5, 5]
    one_alone = connect(address)
    for one in servers:
        one.witness.calls.clear()
    for _ in range(10):
        one_alone.models()
    assert sorted(len(one.witness.calls) for one in servers) == [0, 10]


def test_a_busy_server_is_retried_after_its_delay(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    client = connect(server.address)
    client.models()
    for ask in (
        lambda: client.classify(RED),
        lambda: list(client.explain_stream(SCENE, **EXPLAIN)),
    ):
        server.witness.calls.clear()
        server.witness.refusals[:] = [OverloadedError("full", 0.5), UnavailableError("going down")]
        ask()
        moments = [moment for _, _, moment in server.witness.calls]
        assert len(moments) == 3
        assert moments[1] - moments[0] >= 0.45  # its own pause would have been 0.1 at most
    server.witness.refusals[:] = [OverloadedError("full", 0.01)] * 4
    with pytest.raises(OverloadedError, match="full") as caught:
        client.classify(RED)
    assert caught.value.retry_after_s == 0.01


def test_a_call_that_a_stopping_server_cancels_is_retried(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    client = connect(server.address)
    for status in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
        server.witness.refusals[:] = [status]
        assert client.classify(RED)[0].label == "red"
        assert server.witness.refusals == []


def test_a_faulty_request_is_not_retried(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    with pytest.raises(InvalidRequestError):
        connect(server.address).classify(b"no image")
    with pytest.raises(NotFoundError):
        connect(server.address).classify(RED, model="cats")
    assert len(server.witness.calls) == 2


def test_if_most_calls_fail_not_all_are_retried(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_witnessed()
    client = connect(server.address)
    server.witness.refusals[:] = [OverloadedError("full", 0.01)] * 200
    for _ in range(30):
        with pytest.raises(OverloadedError):
            client.models()
    assert 30 < len(server.witness.calls) < 50  # 120 without a limit


def test_a_restarted_server_is_found_within_the_call(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    server = start_server()
    client = connect(server.address, timeout_s=60, max_attempts=5)
    assert client.classify(RED)[0].label == "red"
    server.stop()
    again = threading.Timer(0.3, start_server, kwargs={"listen": server.address})
    again.start()

    def is_found() -> bool:
        with contextlib.suppress(UnavailableError):
            return bool(client.classify(RED)[0].label == "red")
        return False

    until(is_found)
    again.join()


def test_a_closed_client_ends_its_calls(
    start_server: Callable[..., Any], connect: Callable[..., Any], gate: Any
) -> None:
    client = connect(start_server().address)
    client.models()
    gate.opened.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.classify, RED)
        until(lambda: gate.num_entered)
        client.close()
        with pytest.raises(LimelensError):
            waiting.result(60)
        gate.opened.set()


def test_four_threads_share_one_client(start_server: Callable[..., Any]) -> None:
    server = start_server()
    images = {"red": RED, "green": GREEN}
    with Client(server.address) as client, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> list[tuple[str, str | None]]:
            name = ("red", "green")[number % 2]
            found = client.classify([images[name]] * 2)
            streamed = client.stream([images[name]], drop_old=False)
            return [(name, one.label) for one in found] + [
                (name, one.smoothed_label) for one in streamed
            ]

        for answers in pool.map(ask, range(40)):
            assert len(answers) == 3
            assert all(asked == answered for asked, answered in answers)


async def test_a_cancelled_task_cancels_its_call_on_the_server(
    start_server: Callable[..., Any], gate: Any
) -> None:
    server = start_server(num_threads=1)
    async with AsyncClient(server.address) as client:
        await client.models()
        gate.opened.clear()
        held = asyncio.create_task(client.classify(RED))
        await until_async(lambda: gate.num_entered == 1)
        waiting = [asyncio.create_task(client.classify(RED)) for _ in range(3)]
        engine = server.server.runner.engine(server.repository.get().bundle)
        await until_async(lambda: engine.num_waiting == 3)
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError] * 3
        await until_async(lambda: engine.num_waiting == 0)
        gate.opened.set()
        assert (await held)[0].label == "red"
        assert gate.num_entered == 1  # what was cancelled never ran


async def test_many_tasks_share_one_client(start_server: Callable[..., Any]) -> None:
    async with AsyncClient(start_server().address) as client:
        found = await asyncio.gather(
            *(client.classify(RED if number % 2 else GREEN) for number in range(50))
        )
    assert [one[0].label for one in found] == ["green", "red"] * 25
