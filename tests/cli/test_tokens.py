"""`limelens token`, and `limelens serve` with what it made."""

from __future__ import annotations

import datetime
import hashlib
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc


def entries(path: Path) -> Any:
    return tomllib.loads(path.read_text())["client"]


def test_a_token_is_printed_once_and_its_hash_is_kept(
    limelens: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    first = limelens("token", "door", "--rights", "models,classify", "--file", path)
    assert first.exit_code == 0
    token = first.stdout.strip()
    assert token.startswith("limelens_")
    assert len(token) > 50
    assert token not in first.stderr + path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    options = ("--expires", "2h", "--rate-limit", "5/second", "--max-calls", "3")
    second = limelens("token", "hall", "--rights", "explain", "--file", path, *options)
    door, hall = entries(path)
    assert door == {
        "name": "door",
        "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        "rights": ["classify", "models"],
    }
    left = hall.pop("expires") - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=1, minutes=50) < left <= datetime.timedelta(hours=2)
    assert hall == {
        "name": "hall",
        "token_sha256": hashlib.sha256(second.stdout.strip().encode()).hexdigest(),
        "rights": ["explain"],
        "rate_limit": "5/second",
        "max_calls": 3,
    }


def test_a_file_keeps_its_comments(limelens: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("# ours")
    path.chmod(0o640)
    result = limelens("token", "a", "--rights", "models", "--file", path, "--expires", "2099-01-31")
    assert result.exit_code == 0
    assert path.read_text().startswith("# ours\n\n[[client]]\n")
    assert entries(path)[0]["expires"] == datetime.datetime(2099, 1, 31, tzinfo=datetime.UTC)
    assert "accessible to users other than its owner" in " ".join(result.stderr.split())


def test_a_token_as_json(limelens: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    found = limelens("token", "a", "--rights", "embed", "--file", path, "--json").json
    assert set(found) == {"name", "token", "rights", "expires", "file"}
    assert (found["name"], found["rights"], found["expires"]) == ("a", ["embed"], None)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("a", "--rights", "fly"), 2, "'fly' is not a right"),
        (("a b", "--rights", "models"), 2, "'a b'; expected 1 to 64"),
        (('a"\nname', "--rights", "models"), 2, "expected 1 to 64"),
        (("a",), 2, "--rights"),
        (("a", "--rights", "models", "--expires", "soon"), 2, "'soon'; expected such as 90d"),
        (("a", "--rights", "models", "--expires", "2020-01-01"), 2, "is in the past"),
        (("a", "--rights", "models", "--expires", "9999999d"), 2, "expected such as 90d"),
        (("a", "--rights", "models", "--rate-limit", "often"), 1, "rate limit 'often'"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_no_file(
    limelens: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    result = limelens("token", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert not (tmp_path / "tokens.toml").exists()


def test_a_broken_file_is_not_changed(limelens: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("[[client]]\nname =")
    result = limelens("token", "a", "--rights", "models", "--file", path)
    assert result.exit_code == 1
    assert "is not TOML" in result.stderr
    assert path.read_text() == "[[client]]\nname ="


def test_serve_admits_clients_of_the_file_and_logs_no_token(
    limelens: Callable[..., Any], one_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    token = limelens("token", "door", "--rights", "models", "--file", path).stdout.strip()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(one_model)),
            *("--listen", "127.0.0.1:0", "--device", "cpu", "--tokens", str(path), "--production"),
            *("--rate-limit", "2/hour", "--log-level", "debug"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split(" on ")[1].split()[0]
    codes = []
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        stub: Any = service_grpc.ClassifierServiceStub(channel)  # type: ignore[no-untyped-call]
        for shown in (token, token, token, "wrong-token-of-somebody", None):
            metadata = [("authorization", f"Bearer {shown}")] if shown else []
            try:
                stub.ListModels(service_pb2.ListModelsRequest(), metadata=metadata)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert codes == ["OK", "OK", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert process.returncode == 0
    assert "ListModels OK" in errors
    assert " of door" in errors
    for secret in (token, "wrong-token", hashlib.sha256(token.encode()).hexdigest()):
        assert secret not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--production",), 1, "nothing says who may call; give a file of clients (--tokens)"),
        (("--tokens", "nowhere.toml"), 1, "nowhere.toml: No such file or directory"),
        (("--rate-limit", "often"), 1, "rate limit 'often'; expected such as '100/second'"),
        (("--jwt-key", "x.pem"), 2, "--jwt-key, --jwt-issuer and --jwt-audience"),
        (
            ("--jwt-key", "x.pem", "--jwt-issuer", "i", "--jwt-audience", "a"),
            1,
            "x.pem: No such file or directory",
        ),
    ],
)
def test_a_server_without_a_readable_tokens_file_does_not_start(
    limelens: Callable[..., Any],
    one_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    base = ("serve", "--models", one_model, "--listen", "127.0.0.1:0", "--device", "cpu")
    result = limelens(*base, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
