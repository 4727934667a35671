"""`limelens doctor` against real servers and real certificates."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import serving
from tests.waiting import PATIENCE_S

from limelens.serve.access.config import AccessConfig, Tls

Run = Callable[..., Any]


def mutual(ca: Any, name: str, **dates: int) -> Tls:
    """A server that asks for certificates of the same authority as its own."""
    chain, key = ca.issue(name, **dates)
    return Tls(chain, key, ca.path)


@pytest.fixture
def look(limelens: Run) -> Callable[..., dict[str, dict[str, str]]]:
    """Runs the doctor; its checks by their names. The exit code follows from the checks."""

    def run(*arguments: object) -> dict[str, dict[str, str]]:
        if "--timeout-s" not in arguments:
            arguments += ("--timeout-s", PATIENCE_S)
        result = limelens("doctor", *arguments, "--json")
        document = result.json
        checks = {check["name"]: check for check in document["checks"]}
        assert len(checks) == len(document["checks"])
        states = [check["state"] for check in checks.values()]
        assert document["wrong"] == states.count("wrong")
        assert document["warnings"] == states.count("warning")
        assert result.exit_code == (1 if "wrong" in states else 0)
        assert all(check["advice"] for check in checks.values() if check["state"] != "ok")
        return checks

    return run


def wrong(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    """What is wrong: found and advice by name."""
    return {
        name: f"{check['found']}; {check['advice']}"
        for name, check in checks.items()
        if check["state"] == "wrong"
    }


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of a web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    with serving(server):
        yield server.server_port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is open and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield listening.getsockname()[1]


def test_a_healthy_server_has_nothing_wrong(
    look: Run, limelens: Run, start_server: Callable[..., Any]
) -> None:
    server = start_server()
    checks = look("--server", server.address)
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert set(checks) == {
        "name", "connection", "protocol", "health", "round trip", "right models",
        "right classify", "model colours 1", "version",
    }  # fmt: skip
    deep = look("--server", server.address, "--deep")
    assert deep["right explain"]["state"] == "ok"
    assert "the limit is 33,554,432" in deep["message size"]["found"]
    reported = limelens("doctor", "--server", server.address).stdout
    assert "SERVING" in reported
    assert "0 wrong, 0 warnings" in reported


def test_wrong_names_and_ports_are_reported(
    look: Run, limelens: Run, own_port: Callable[[], int]
) -> None:
    closed_port = own_port()
    found = wrong(look("--server", f"127.0.0.1:{closed_port}"))
    assert set(found) == {"connection"}
    assert found["connection"].startswith(f"nothing listens on 127.0.0.1:{closed_port};")
    assert "check how it is spelled" in wrong(look("--server", "nowhere.invalid:8500"))["name"]
    for words in ("nowhere", "host:", ":1", "host:0", "host:70000"):
        assert limelens("doctor", "--server", words).exit_code == 2


def test_a_port_with_another_protocol_is_reported(
    look: Run, web_server: int, silent_port: int
) -> None:
    web = wrong(look("--server", f"127.0.0.1:{web_server}", "--timeout-s", "5"))["protocol"]
    assert "neither TLS nor HTTP/2" in web
    assert f"curl -v http://127.0.0.1:{web_server} shows a web server" in web
    silent = look("--server", f"127.0.0.1:{silent_port}", "--timeout-s", "0.3")
    assert "neither TLS nor HTTP/2" in wrong(silent)["protocol"]


def test_plaintext_against_tls_is_reported(
    look: Run, start_server: Callable[..., Any], authority: Callable[..., Any]
) -> None:
    ca = authority("ca")
    plain, secure = start_server(), start_server(tls=Tls(*ca.issue("localhost")))
    found = wrong(look("--server", secure.address))
    assert set(found) == {"protocol"}
    assert "speaks TLS, but this client uses plaintext" in found["protocol"]
    assert "--ca FILE" in found["protocol"]
    found = wrong(look("--server", plain.address, "--ca", ca.path))
    assert set(found) == {"protocol"}
    assert "speaks plaintext, but this client uses TLS" in found["protocol"]
    asking = start_server(tls=mutual(ca, "localhost"))
    assert set(wrong(look("--server", asking.address))) == {"protocol"}


def run_advice(check: str) -> str:
    """What the command prints that the advice of a check names, from `openssl` on."""
    command = check[check.index("openssl ") :].partition(" shows ")[0]
    found = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_faults_of_the_servers_certificate_are_reported(
    look: Run, start_server: Callable[..., Any], authority: Callable[..., Any]
) -> None:
    ca, other = authority("ca"), authority("other")
    server = start_server(tls=Tls(*ca.issue("localhost", days=90)))
    checks = look("--server", server.address, "--ca", ca.path)
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert "good for 127.0.0.1 until " in checks["server certificate"]["found"]
    assert checks["handshake"]["found"] == "TLSv1.3, HTTP/2 agreed on (ALPN)"

    unknown = wrong(look("--server", server.address, "--ca", other.path))
    assert set(unknown) == {"server certificate"}
    assert "an authority that is not known here" in unknown["server certificate"]
    assert "issuer=CN = ca" in run_advice(unknown["server certificate"]).replace("CN=", "CN = ")
    named = ("--server", server.address, "--ca", ca.path, "--server-name", "door.example")
    found = wrong(look(*named))["server certificate"]
    assert "not valid for 'door.example'" in found
    assert "DNS:localhost" in run_advice(found)

    soon = start_server(tls=Tls(*ca.issue("soon", days=3)))
    checks = look("--server", soon.address, "--ca", ca.path)
    assert checks["server certificate"]["state"] == "warning"
    assert "renew it" in checks["server certificate"]["advice"]


@pytest.mark.parametrize(
    ("dates", "sentence"),
    [
        ({"days": -1}, "certificate has expired"),
        ({"begins": 1}, "certificate is not yet valid"),
    ],
)
def test_certificates_out_of_date_are_reported_with_the_clock(
    look: Run,
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    dates: dict[str, int],
    sentence: str,
) -> None:
    ca = authority("ca")
    server = start_server(tls=Tls(*ca.issue("localhost", **dates)))
    found = wrong(look("--server", server.address, "--ca", ca.path))["server certificate"]
    assert sentence in found
    assert "clock" in found
    assert "notAfter=" in run_advice(found)
    asking = start_server(tls=mutual(ca, "good"))
    chain, key = ca.issue("door", **dates)
    arguments = ("--server", asking.address, "--ca", ca.path, "--cert", chain, "--key", key)
    found = wrong(look(*arguments))["client certificate"]
    assert "the server refuses the connection" in found
    assert "notAfter=" in run_advice(found)


def test_faults_of_the_clients_certificate_are_reported(
    look: Run, start_server: Callable[..., Any], authority: Callable[..., Any], tmp_path: Path
) -> None:
    ca, foreign = authority("ca"), authority("foreign")
    server = start_server(tls=mutual(ca, "localhost", days=90))
    base = ("--server", server.address, "--ca", ca.path)
    door, key = ca.issue("door", days=90)
    checks = look(*base, "--cert", door, "--key", key)
    assert {check["state"] for check in checks.values()} == {"ok"}

    missing = wrong(look(*base))
    assert set(missing) == {"client certificate"}
    assert missing["client certificate"].startswith("no client certificate was sent")
    chain, other_key = foreign.issue("door")
    found = wrong(look(*base, "--cert", chain, "--key", other_key))["client certificate"]
    assert "the server refuses the connection" in found
    assert "issuer=CN = foreign" in run_advice(found).replace("CN=", "CN = ")
    found = wrong(look(*base, "--cert", door, "--key", other_key))["client certificate"]
    assert "cannot be used (KEY_VALUES_MISMATCH)" in found
    assert "Subject: " in run_advice(found)
    broken = tmp_path / "broken.pem"
    broken.write_text("half")
    found = wrong(look(*base, "--cert", broken, "--key", key))["client certificate"]
    assert "broken.pem cannot be used" in found
    found = wrong(look(*base[:2], "--ca", broken))["authority"]
    assert "broken.pem cannot be used" in found


def test_tokens_and_their_rights_are_reported(
    look: Run,
    start_server: Callable[..., Any],
    tokens: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rights = {
        "all": ["classify", "explain", "models"],
        "some": ["classify"],
        "none": ["embed"],
    }
    files = {name: tmp_path / f"{name}.token" for name in (*rights, "late", "wrong")}
    for name, granted in rights.items():
        files[name].write_text(tokens.set(name, granted) + "\n")
    files["late"].write_text(tokens.set("late", ["models"], "expires = 2020-01-01"))
    files["wrong"].write_text("nobody's")
    server = start_server(access=tokens.access())

    def with_token(name: str, *more: str) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = look(
            "--server", server.address, "--token-file", files[name], *more
        )
        return found

    checks = with_token("all", "--deep")
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert checks["token"]["found"] == "accepted"
    checks = with_token("some", "--deep")
    assert checks["right classify"]["state"] == "ok"
    assert checks["right explain"]["state"] == "warning"
    assert "some has no right to explain" in checks["right explain"]["found"]
    assert not wrong(checks)
    assert "has none of these rights" in wrong(with_token("none"))["rights"]
    assert "the access of late has expired" in wrong(with_token("late"))["token"]
    assert "the token is not known" in wrong(with_token("wrong"))["token"]
    missing = wrong(look("--server", server.address))
    assert set(missing) == {"token"}
    assert "--token-file FILE" in missing["token"]
    monkeypatch.setenv("LIMELENS_TOKEN", files["all"].read_text())
    assert look("--server", server.address)["token"]["state"] == "ok"
    assert look("--server", start_server().address)["token"]["state"] == "warning"


def test_a_server_that_goes_down_is_reported(look: Run, start_server: Callable[..., Any]) -> None:
    server = start_server()
    server.call(server.server.health.stop())
    assert "NOT_SERVING" in wrong(look("--server", server.address))["health"]


def test_health_needs_no_token(look: Run, start_server: Callable[..., Any], tokens: Any) -> None:
    tokens.set("door", ["models"])
    server = start_server(access=tokens.access(), health_listen="127.0.0.1:0")
    for address in (server.address, server.server.health_address):
        checks = look("--server", address, "--health")
        assert set(checks) == {"name", "connection", "protocol", "health", "round trip"}
        assert {check["state"] for check in checks.values()} == {"ok"}


def test_another_grpc_server_is_reported(look: Run) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        checks = look("--server", f"127.0.0.1:{port}")
        server.stop(None).wait()
    assert checks["health"]["state"] == "warning"
    assert "not limelens" in wrong(checks)["service"]


def test_a_large_message_without_a_response_is_not_said_to_be_accepted(look: Run) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    class Lost(grpc.GenericRpcHandler):
        """Is healthy, but for large messages."""

        def service(self, details: Any) -> Any:
            def check(request: bytes, context: Any) -> bytes:
                if len(request) > 1000:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "lost on the way")
                return b"\x08\x01"

            is_health = details.method == "/grpc.health.v1.Health/Check"
            return grpc.unary_unary_rpc_method_handler(check) if is_health else None

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((Lost(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        check = look("--server", f"127.0.0.1:{port}", "--deep")["message size"]
        server.stop(None).wait()
    assert check["state"] == "warning"
    assert "67,108,864 bytes had no response: " in check["found"]
    assert "lost on the way" in check["found"]


def test_this_machine_is_checked(look: Run, models: Path, limelens: Run) -> None:
    checks = look("--models", models)
    assert not wrong(checks)
    assert {"python", "limelens", "onnxruntime", "cuda", "torch", "fonts", "cores", "disk"} <= set(
        checks
    )
    for name in ("colours 1", "colours 2", "tags 1"):
        assert checks[f"model {name}"]["found"].startswith("golden vector met on ")
    assert "serve-cpu" in checks["limelens"]["found"] or "serve-gpu" in checks["limelens"]["found"]
    assert "checks, 0 wrong" in limelens("doctor", "--models", models).stdout


def test_two_runtimes_are_a_warning_if_one_works(
    look: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = look("--models", models)["onnxruntime"]
    assert check["state"] == "warning"
    assert "both onnxruntime and onnxruntime-gpu are installed" in check["found"]


def test_rejected_and_missing_models_are_reported(
    look: Run, one_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(one_model, folder)
    bad = folder / "bad" / "1" / "model.onnx"
    bad.parent.mkdir(parents=True)
    bad.write_bytes((one_model / "colours" / "1" / "model.onnx").read_bytes()[:100])
    checks = look("--models", folder)
    assert set(wrong(checks)) == {"model bad 1"}
    assert checks["model colours 1"]["state"] == "ok"
    assert "is no folder" in wrong(look("--models", tmp_path / "nowhere"))["models"]
    (tmp_path / "empty").mkdir()
    assert "holds no NAME/VERSION/model.onnx" in wrong(look("--models", tmp_path / "empty"))[
        "models"
    ]  # fmt: skip


def test_a_graph_is_really_run_on_a_provider() -> None:
    from limelens.serve.tools.doctor.machine import run_on

    assert run_on("CPUExecutionProvider") == ""
    if not Path("/proc/driver/nvidia").exists():
        assert run_on("CUDAExecutionProvider").startswith("no NVIDIA driver")


def test_the_doctor_needs_no_more_than_the_clients_packages(
    start_server: Callable[..., Any], authority: Callable[..., Any]
) -> None:
    ca = authority("ca")
    server = start_server(tls=Tls(*ca.issue("localhost", days=-1)), access=AccessConfig())
    code = (
        "import sys\n"
        "for name in ('onnxruntime', 'onnx', 'skimage', 'sklearn', 'torch', 'cryptography', "
        "'grpc_health', 'jwt', 'limits'):\n"
        "    sys.modules[name] = None\n"
        "from limelens.cli import main\n"
        "sys.argv = ['limelens', *sys.argv[1:]]\n"
        "main()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--server", server.address, "--ca", ca.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1, found.stderr
    assert "has expired" in found.stdout
