"""Tokens from a file: which callers it admits, and how changes of the file apply."""

from __future__ import annotations

import datetime
import functools
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.waiting import until

from limelens.inference import inference_service_pb2 as inference
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve.access.config import AccessConfig
from limelens.serve.access.tokens import Clients, read_clients
from limelens.serve.access.watched import Watched
from limelens.serve.bundle import Bundle
from limelens.serve.errors import (
    AccessPolicyError,
    LimelensError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from limelens.serve.rpc.server_config import ServerConfig
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

SCENE = np.random.default_rng(3).integers(0, 256, (48, 48, 3), dtype=np.uint8)
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
CLASSIFY = "/limelens.v1.ClassifierService/Classify"


def soon(seconds: float) -> str:
    """A line that lets a client's token expire."""
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"expires = {at.replace(tzinfo=None).isoformat()}Z"


def test_a_token_lets_its_client_in(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    assert caller(server.address, token).classify(RED)[0].label == "red"


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ([], "no token; expected the metadata 'authorization: Bearer TOKEN'"),
        ([("authorization", "Bearer nonsense")], "the token is not known here"),
        ([("authorization", "Bearer ")], "expected it once, as 'Bearer TOKEN'"),
        ([("authorization", "Basic door-token")], "expected it once, as 'Bearer TOKEN'"),
        ([("authorization", "door-token")], "expected it once, as 'Bearer TOKEN'"),
        ([("authorization", "Bearer door-token")] * 2, "expected it once, as 'Bearer TOKEN'"),
        ([("authorization", "Bearer late-token")], "the access of late has expired"),
        ([("authorization", "Bearer a.b.c")], "the token is not known here"),
    ],
)
def test_without_a_valid_token_every_call_is_refused(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    metadata: list[tuple[str, str]],
    sentence: str,
) -> None:
    tokens.set("door", ["classify", "explain", "embed", "models", "admin"])
    tokens.set("late", ["classify"], soon(-1))
    client = caller(start_server(access=tokens.access()).address, metadata=metadata)
    calls: list[Callable[[], object]] = [
        lambda: client.classify(RED),
        lambda: client.embed(RED),
        lambda: client.explain(RED),
        lambda: list(client.explain_stream(RED)),
        lambda: list(client.stream([RED])),
        lambda: client.models(),
        lambda: client.model(),
    ]
    for call in calls:
        with pytest.raises(UnauthenticatedError) as caught:
            call()
        assert sentence in str(caught.value)


def test_each_right_opens_its_own_methods_and_no_other(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    for right in ("classify", "embed", "explain", "models", "admin"):
        tokens.set(right, [right])
    server = start_server(access=tokens.access())
    calls: dict[str, list[Callable[[Any], object]]] = {
        "classify": [lambda c: c.classify(RED), lambda c: list(c.stream([RED]))],
        "embed": [lambda c: c.embed(RED)],
        "explain": [
            lambda c: c.explain(RED, num_samples=50),
            lambda c: list(c.explain_stream(RED, num_samples=50)),
        ],
        "models": [lambda c: c.models(), lambda c: c.model()],
    }
    for right in ("classify", "embed", "explain", "models", "admin"):
        client = caller(server.address, f"{right}-token")
        for needed, those in calls.items():
            for call in those:
                if needed == right:
                    call(client)
                    continue
                with pytest.raises(PermissionDeniedError, match=f"no right to {needed};"):
                    call(client)


def test_an_embedding_beside_a_classification_needs_the_right_to_embed(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    some, both = tokens.set("some", ["classify"]), tokens.set("both", ["classify", "embed"])
    server = start_server(access=tokens.access())
    with pytest.raises(PermissionDeniedError, match="embed"):
        caller(server.address, some).classify(RED, embedding=True)
    assert caller(server.address, both).classify(RED, embedding=True)[0].embedding is not None


def test_stock_clients_that_name_no_output_get_the_allowed_ones(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    some, both = tokens.set("some", ["classify"]), tokens.set("both", ["classify", "embed"])
    server = start_server(access=tokens.access())
    pixels = np.full((1, 32, 32, 3), (255, 0, 0), np.uint8)

    def infer(token: str, *wanted: str) -> list[str]:
        stub = inference_grpc.GRPCInferenceServiceStub(  # type: ignore[no-untyped-call]
            caller.channel(server.address, token)
        )
        images = inference.ModelInferRequest.InferInputTensor(
            name="images", datatype="UINT8", shape=pixels.shape
        )
        output = inference.ModelInferRequest.InferRequestedOutputTensor
        request = inference.ModelInferRequest(
            inputs=[images],
            outputs=[output(name=name) for name in wanted],
            raw_input_contents=[pixels.tobytes()],
        )
        return [one.name for one in stub.ModelInfer(request, timeout=60).outputs]

    assert infer(both) == ["probabilities", "embedding"]
    assert infer(some) == ["probabilities"]
    with pytest.raises(grpc.RpcError, match="no right to embed"):
        infer(some, "embedding")


def test_a_caller_is_refused_before_its_request_was_read(
    start_server: Callable[..., Any], tokens: Any
) -> None:
    tokens.set("door", ["classify"])
    address = start_server(access=tokens.access()).address
    never = threading.Event()

    def messages() -> Any:
        never.wait()
        yield b""

    # On the wire the same as the unary call, but the request is never sent.
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(CLASSIFY)(messages(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        never.set()


def test_health_is_open_to_anybody(start_server: Callable[..., Any], tokens: Any) -> None:
    tokens.set("door", ["classify"])
    with grpc.insecure_channel(start_server(access=tokens.access()).address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_needs_the_right_to_see_models(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    may, may_not = tokens.set("may", ["models"]), tokens.set("maynot", ["classify"])
    address = start_server(access=tokens.access()).address

    def listed(token: str | None) -> Any:
        channel = caller.channel(address, token)
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        return [service.name for service in answer.list_services_response.service]

    assert "limelens.v1.ClassifierService" in listed(may)
    for token, code in [(None, "UNAUTHENTICATED"), (may_not, "PERMISSION_DENIED")]:
        with pytest.raises(grpc.RpcError) as caught:
            listed(token)
        assert caught.value.code().name == code


def test_reflection_ends_when_its_token_expires(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    token = tokens.set("door", ["models"])
    tokens.set("other", ["models"])
    channel = caller.channel(start_server(access=tokens.access()).address, token)
    ended = threading.Event()

    def asked() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        ended.wait(60)

    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked())
    assert next(answers).list_services_response.service
    tokens.remove("door")
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    ended.set()
    assert caught.value.code().name == "UNAUTHENTICATED"


def test_a_stream_ends_when_its_token_expires(
    start_server: Callable[..., Any], tokens: Any, caller: Any, camera: Callable[..., Any]
) -> None:
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    stream = camera(caller(server.address, token))
    assert stream().frame_id == 0
    tokens.set("door", ["classify"], soon(2))
    with pytest.raises(UnauthenticatedError, match="of door has expired"):
        stream.answer()


def test_an_explanation_ends_when_its_token_is_removed(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict, num_runs = Bundle.predict, 0
    predicts_slowly = threading.Event()

    def slowly(self: Bundle, images: np.ndarray) -> np.ndarray:
        nonlocal num_runs
        num_runs += 1
        predicts_slowly.wait(0.05)
        return predict(self, images)

    monkeypatch.setattr(Bundle, "predict", slowly)
    token = tokens.set("door", ["explain"])
    tokens.set("other", ["explain"])
    server = start_server(access=tokens.access())
    updates = caller(server.address, token).explain_stream(SCENE, num_samples=10_000)
    assert next(updates).explanation is not None
    tokens.remove("door")
    with pytest.raises(UnauthenticatedError, match="not known here"):
        list(updates)
    assert num_runs < 10_000
    predicts_slowly.set()
    assert caller(server.address, "other-token").explain(SCENE, num_samples=50)


def test_a_stream_ends_when_its_token_is_removed(
    start_server: Callable[..., Any], tokens: Any, caller: Any, camera: Callable[..., Any]
) -> None:
    door, other = tokens.set("door", ["classify"]), tokens.set("other", ["classify"])
    server = start_server(access=tokens.access())
    ending, staying = camera(caller(server.address, door)), camera(caller(server.address, other))
    assert (ending().frame_id, staying().frame_id) == (0, 0)
    tokens.remove("door")
    with pytest.raises(UnauthenticatedError, match="not known here"):
        ending.answer()
    assert staying().frame_id == 1


def test_a_stream_ends_when_its_right_is_removed(
    start_server: Callable[..., Any], tokens: Any, caller: Any, camera: Callable[..., Any]
) -> None:
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    stream = camera(caller(server.address, token))
    stream()
    tokens.set("door", ["models"])
    with pytest.raises(PermissionDeniedError, match="classify"):
        stream.answer()


def test_a_stream_ends_when_an_extra_right_is_removed(
    start_server: Callable[..., Any], tokens: Any, caller: Any, camera: Callable[..., Any]
) -> None:
    token = tokens.set("door", ["classify", "explain"])
    server = start_server(access=tokens.access())
    explaining: Any = {"segmentation": "grid", "num_segments": 4, "num_samples": 20}
    stream = camera(caller(server.address, token), explain_on_change=explaining)
    stream()
    assert stream.answer().explanation is not None
    tokens.set("door", ["classify"])
    with pytest.raises(PermissionDeniedError, match="door no longer has the right to explain;"):
        stream.answer()


def test_a_stream_continues_while_its_token_has_the_rights_it_uses(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    camera: Callable[..., Any],
) -> None:
    token = tokens.set("door", ["classify", "explain"])
    server = start_server(access=tokens.access())
    client = caller(server.address, token)
    stream = camera(client)
    stream()
    generations = [server.server.access.generation]
    for rights in (["classify", "models"], ["classify"]):
        tokens.set("door", rights)
        until(lambda: server.server.access.generation != generations[-1])
        generations.append(server.server.access.generation)
        if "models" in rights:
            assert [one.name for one in client.models()] == ["colours"]
        first = stream().frame_id
        assert [stream().frame_id for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_an_edited_file_applies_at_once_and_fails_no_call(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    done = threading.Event()
    errors: list[Exception] = []
    counts = [0] * 3

    def call(number: int) -> None:
        client = caller(server.address, token)
        while not done.is_set():
            try:
                client.classify(RED)
                counts[number] += 1
            except Exception as error:
                errors.append(error)

    calling = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for one in calling:
        one.start()

    def lets_in(name: str) -> bool:
        try:
            caller(server.address, f"{name}-token").classify(RED)
        except UnauthenticatedError:
            return False
        return True

    for number in range(3):
        name = f"guest{number}"
        tokens.path.write_text("")  # what an editor leaves for a moment
        tokens.set(name, ["classify"])
        until(functools.partial(lets_in, name))
        tokens.path.write_text('[[client]]\nname = "door"\nexpire = 1')
        until(lambda: "expire: no such key" in caplog.text)
        caplog.clear()
        tokens.remove(name)
        until(lambda: not lets_in(name))  # noqa: B023
    done.set()
    for one in calling:
        one.join()
    assert not errors
    assert all(counts)


def test_a_broken_file_is_logged_once_and_the_previous_one_applies(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reread, reads = Watched.reread, []

    def counted(watched: Watched[Any]) -> bool:
        reads.append(watched)
        return reread(watched)

    monkeypatch.setattr(Watched, "reread", counted)
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    beside = tokens.path.with_name("new")
    beside.write_text("[[client]]\nname = ")
    beside.rename(tokens.path)
    until(lambda: "stays in use" in caplog.text)
    tokens.path.unlink()
    until(lambda: "No such file" in caplog.text)
    assert caller(server.address, token).classify(RED)[0].label == "red"
    num_reads = len(reads)
    until(lambda: len(reads) >= num_reads + 5)
    complaints = [one for one in caplog.records if "stays in use" in one.message]
    assert len(complaints) == 2
    assert {one.levelno for one in complaints} == {logging.ERROR}


def test_neither_tokens_nor_hashes_are_logged(
    start_server: Callable[..., Any], tokens: Any, caller: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good, poor = tokens.set("door", ["classify"]), tokens.set("poor", [])
    late = tokens.set("late", ["classify"], soon(-1))
    server = start_server(access=tokens.access(rate_limit="1/minute"))
    shown = [good, good, poor, late, "unknown-token-of-somebody", "ey.J.secretpart"]
    for token in shown:
        try:
            caller(server.address, token).classify(RED)
        except LimelensError as error:
            reported = str(error)
            assert token not in reported
    assert "Classify OK" in caplog.text
    assert " of door" in caplog.text
    assert "UNAUTHENTICATED" in caplog.text
    for token in shown:
        assert token not in caplog.text
        assert hashlib.sha256(token.encode()).hexdigest() not in caplog.text


def test_the_log_names_the_caller(
    start_server: Callable[..., Any], tokens: Any, caller: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "limelens")
    token = tokens.set("door", ["classify"])
    server = start_server(access=tokens.access())
    caller(server.address, token).classify(RED)
    lines = [one for one in caplog.records if getattr(one, "rpc", "") == "Classify"]
    assert [vars(one)["caller"] for one in lines] == ["door"]
    nameless = start_server()
    caller(nameless.address).classify(RED)
    assert vars(caplog.records[-1])["caller"] == "127.0.0.1"


def test_a_token_has_no_effect_if_none_is_required(
    start_server: Callable[..., Any], caller: Any
) -> None:
    assert caller(start_server().address, "anything").classify(RED)[0].label == "red"


def test_errors_of_access_are_the_same_classes_to_bare_stubs(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    tokens.set("door", [])
    address = start_server(access=tokens.access()).address
    for token, code in [("x", "UNAUTHENTICATED"), ("door-token", "PERMISSION_DENIED")]:
        channel = caller.channel(address, token)
        stub = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetModel(service_pb2.GetModelRequest())
        assert caught.value.code().name == code


HASH = "a" * 64


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; expected clients"),
        ("[[client]", "is not TOML"),
        ("clients = 1", "clients: expected nothing but"),
        ("client = 1", "expected nothing but"),
        ("[[client]]\nrights = []", "client 1: name: expected 1 to 64"),
        ('[[client]]\nname = "a b"', "client 1: name: expected 1 to 64"),
        ('[[client]]\nname = "a"\nrights = []', "client 1 (a): expected either token_sha256 or"),
        ('[[client]]\nname = "a"\ntoken_sha256 = "the-token"', "token_sha256: not a hash"),
        ('[[client]]\nname = "a"\nsubject = 1', "subject: expected a text"),
        (f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"', "rights: expected a list"),
        (
            f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = ["fly"]',
            "'fly' is not a right; expected some of classify, embed, explain, models, admin",
        ),
        (
            f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = []\nexpires = "soon"',
            "expires: expected a time",
        ),
        (
            f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = []\nmax_calls = 0',
            "max_calls: 0; expected a whole number from 1",
        ),
        (
            f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = []\nrate_limit = 5',
            "rate_limit: expected a text",
        ),
        (
            f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = []\n' * 2,
            "client 2 (a): an earlier client has the same token",
        ),
    ],
)
def test_an_unusable_file_is_refused_with_place_and_reason(text: str, sentence: str) -> None:
    with pytest.raises(AccessPolicyError) as caught:
        read_clients(text.encode(), "tokens.toml")
    assert sentence in str(caught.value)
    assert "the-token" not in str(caught.value)
    assert HASH not in str(caught.value)


def test_dates_without_a_zone_are_utc() -> None:
    entry = f'[[client]]\nname = "a"\ntoken_sha256 = "{HASH}"\nrights = []\nexpires = '
    at = datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC).timestamp()
    for text in ("2027-01-31", "2027-01-31T00:00:00", "2027-01-31T01:00:00+01:00"):
        clients: Clients = read_clients((entry + text).encode(), "x")
        assert clients.entries[0].expires_at == at


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tokens": Path("nowhere.toml")}, "nowhere.toml: No such file or directory; expected"),
        ({"rate_limit": "often"}, "rate limit 'often'; expected such as '100/second'"),
        ({"rate_limit": "0/second"}, "rate limit '0/second'"),
    ],
)
def test_a_server_whose_policy_cannot_be_used_does_not_start(
    one_model: Path, settings: dict[str, Any], sentence: str
) -> None:
    from limelens.serve.rpc.server import ServerConfig
    from limelens.serve.run_server import serve

    config = ServerConfig(
        models=one_model, listen="127.0.0.1:0", device="cpu", access=AccessConfig(**settings)
    )
    with pytest.raises(AccessPolicyError) as caught:
        serve(config)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "are_told"),
    [
        ({"listen": "0.0.0.0:0", "insecure": True}, True),
        ({"listen": "127.0.0.1:0"}, False),
    ],
)
def test_tokens_in_plaintext_beyond_this_machine_log_a_warning(
    one_model: Path, tokens: Any, settings: dict[str, Any], are_told: bool
) -> None:
    tokens.set("door", ["classify"])
    config = ServerConfig(models=one_model, access=tokens.access(), **settings)
    assert config.sends_tokens_in_plaintext is are_told
    assert not ServerConfig(models=one_model, **settings).sends_tokens_in_plaintext


def test_a_file_that_others_can_write_logs_a_warning(
    start_server: Callable[..., Any], tokens: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.set("door", ["classify"])
    start_server(access=tokens.access())
    assert not caplog.text
    tokens.path.chmod(0o666)
    start_server(access=tokens.access())
    assert "tokens.toml is writable by users other than its owner; chmod 600 it" in caplog.text
