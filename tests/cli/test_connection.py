"""The connection options of every command that calls a server."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.cli.classifying import classify
from limelens.serve import Client
from limelens.serve.access.config import Tls
from limelens.serve.client import Tls as ClientTls
from limelens.serve.client.authorities import system_authorities
from limelens.serve.errors import InvalidRequestError

Run = Callable[..., Any]


def mutual(ca: Any, name: str, **dates: int) -> Tls:
    """A server that asks for certificates of the same authority as its own."""
    chain, key = ca.issue(name, **dates)
    return Tls(chain, key, ca.path)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "red.png"
    path.parent.mkdir()
    Image.fromarray(np.full((8, 8, 3), (250, 0, 0), np.uint8)).save(path)
    return path


def test_every_command_reaches_a_server_with_certificates_and_a_token(
    limelens: Run,
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    tokens: Any,
    red: Path,
    tmp_path: Path,
) -> None:
    ca = authority("ca")
    token = tmp_path / "token"
    token.write_text(tokens.set("door", ["classify", "embed", "explain", "models"]) + "\n")
    server = start_server(tls=mutual(ca, "localhost"), access=tokens.access())
    door, key = ca.issue("door")
    reach = [
        "--server", server.address, "--ca", ca.path, "--cert", door, "--key", key,
        "--token-file", token,
    ]  # fmt: skip
    index = tmp_path / "pictures.index"
    assert limelens("classify", red, *reach, "--json").json[0]["label"] == "red"
    assert limelens("explain", red, *reach, "--num-samples", 20, "--json").exit_code == 0
    assert limelens("index", red.parent, "--out", index, *reach, "--json").exit_code == 0
    (found,) = limelens("similar", index, red, *reach, "--json").json
    assert found["neighbours"][0]["path"] == "red.png"
    watched = limelens("camera", red.parent, *reach, "--json")
    assert watched.exit_code == 0, watched.stderr
    loaded = limelens("bench", red, *reach, "--streams", 1, "--duration", 0.5, "--json")
    assert loaded.exit_code == 0, loaded.stderr
    assert loaded.json["classify"]["errors"] == {}
    # Where a server falls behind, newer frames take the places of older ones.
    assert loaded.json["stream"]["answered"] > 0
    assert set(loaded.json["stream"]["errors"]) <= {"SUPERSEDED"}


def test_the_systems_authorities_are_those_of_the_system(
    limelens: Run,
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    red: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca = authority("ca")
    server = start_server(tls=Tls(*ca.issue("localhost")))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.path))
    assert system_authorities() == ca.path
    assert limelens("classify", red, "--server", server.address, "--tls").exit_code == 0
    named = ("--tls", "--server-name", "localhost")
    assert limelens("classify", red, "--server", server.address, *named).exit_code == 0


def test_without_a_server_that_was_named_a_model_file_is_proposed(
    limelens: Run, red: Path, own_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = f"127.0.0.1:{own_port()}"
    monkeypatch.setattr("limelens.cli.classifying.DEFAULT_SERVER", closed)
    for options, is_proposed in (((), True), (("--server", closed), False)):
        result = limelens("classify", red, *options)
        assert result.exit_code == 1
        assert f"nothing listens on {closed}" in result.stderr
        assert ("which needs no server (--model FILE)" in result.stderr) is is_proposed


def test_an_address_without_a_port_is_answered_with_one(limelens: Run, red: Path) -> None:
    result = limelens("classify", red, "--server", "localhost")
    assert result.exit_code == 1
    assert "expected HOST:PORT, such as localhost:8500" in result.stderr


@pytest.mark.parametrize("command", ["classify", "explain", "similar", "index"])
def test_a_failed_connection_is_explained_in_one_sentence(
    limelens: Run,
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    tokens: Any,
    own_port: Callable[[], int],
    one_model: Path,
    red: Path,
    tmp_path: Path,
    command: str,
) -> None:
    ca, other = authority("ca"), authority("other")
    secure = start_server(tls=Tls(*ca.issue("localhost")))
    plain = start_server()
    wanted = tmp_path / "token"
    wanted.write_text(tokens.set("door", ["admin"]))
    asking = start_server(access=tokens.access())
    closed = f"127.0.0.1:{own_port()}"
    index = tmp_path / "an.index"
    model = one_model / "colours" / "1" / "model.onnx"
    words: dict[str, list[object]] = {
        "classify": [red],
        "explain": [red],
        "index": [red.parent, "--out", tmp_path / "other.index"],
        "similar": [index, red],
    }
    if command == "similar":
        assert limelens("index", red.parent, "--out", index, "--model", model).exit_code == 0
    for options, sentence in (
        (("--server", closed), "nothing listens on"),
        (("--server", secure.address), "speaks TLS, but this client uses plaintext"),
        (("--server", plain.address, "--ca", ca.path), "speaks plaintext, but this client uses"),
        (("--server", secure.address, "--ca", other.path), "an authority that is not known here"),
        (("--server", asking.address), "needs a token; put yours into a file"),
        (("--server", asking.address, "--token-file", wanted), "door has no right to"),
    ):
        result = limelens(command, *words[command], *options, "--json")
        assert result.exit_code == 1, sentence
        assert result.stdout == ""
        # The server's own log is on this process's stderr too.
        (reported,) = [one for one in result.stderr.splitlines() if one.startswith("limelens: ")]
        assert sentence in reported


def test_the_error_of_a_token_file_names_the_problem(
    limelens: Run, red: Path, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    missing = limelens("classify", red, "--token-file", file)
    assert missing.exit_code == 1
    assert f"{file}: No such file" in missing.stderr
    for text in ("", "two words", "caf\u00e9"):
        file.write_text(text)
        result = limelens("classify", red, "--token-file", file)
        assert result.exit_code == 1
        assert "does not hold one token" in result.stderr
        assert not text or text not in result.stderr


def test_wrong_usage_is_reported_before_anything_begins(limelens: Run, red: Path) -> None:
    for options in (("--cert", red), ("--key", red), ("--server-name", "door")):
        assert limelens("classify", red, *options).exit_code == 2
    result = limelens("classify", red, "--ca", "nowhere.pem")
    assert result.exit_code == 1
    assert "nowhere.pem is no file" in result.stderr


def test_a_token_goes_to_other_machines_only_over_tls(
    authority: Callable[..., Any], limelens: Run, red: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("door.example:8500", "192.0.2.1:8500"):
        with pytest.raises(InvalidRequestError, match="anybody in between can read it") as caught:
            Client(address, token="secret")
        assert "secret" not in str(caught.value)
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:socket"):
        Client(address, token="secret").close()
    Client("door.example:8500", token="secret", insecure_token=True).close()
    Client("door.example:8500", token="secret", tls=ClientTls(authority("ca").path)).close()
    monkeypatch.setenv("LIMELENS_TOKEN", "secret")
    result = limelens("classify", red, "--server", "192.0.2.1:8500")
    assert result.exit_code == 1
    assert "in plaintext" in result.stderr
    assert "secret" not in result.stderr


def test_a_client_reads_its_token_for_each_call(
    start_server: Callable[..., Any], tokens: Any
) -> None:
    given = [tokens.set("first", ["models"]), tokens.set("second", ["models"])]
    server = start_server(access=tokens.access())
    asked: list[str] = []

    def token() -> str:
        asked.append(given[len(asked)])
        return asked[-1]

    with Client(server.address, token=token) as client:
        assert client.models()
        assert client.models()
    assert asked == given
    with (
        Client(server.address, token="two words") as client,
        pytest.raises(InvalidRequestError, match="9 characters; expected printable ASCII"),
    ):
        client.models()


def test_commands_are_functions_that_can_be_called(
    one_model: Path, red: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify([red], model=str(one_model / "colours" / "1" / "model.onnx"))
    assert "red" in capsys.readouterr().out
    assert {"ca", "token_file", "insecure_token"} <= set(inspect.signature(classify).parameters)


def test_the_command_line_loads_grpc_only_when_it_is_needed() -> None:
    # `limelens serve` says to gRPC's core what to log before that is loaded.
    code = "import sys, limelens.cli.app; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
