"""Short real runs against real servers; no test asserts a speed."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.waiting import PATIENCE_S, slow_by

from limelens.cli.bench import serve_command
from limelens.serve import Client
from limelens.serve.errors import InvalidRequestError, UnavailableError
from limelens.serve.tools.load import (
    Kind,
    LoadPlan,
    draw_image,
    generate,
    latency_metrics,
    started,
)

# Without a warm-up a caller's first call counts, however long it takes.
SHORT = ("--duration", "1", "--warmup", "0", "--json")
AT_MOST_S = 600.0
"""For callers that make some calls and end."""


@pytest.fixture
def server(start_server: Callable[..., Any]) -> Any:
    return start_server()


def plan(server: Any, **settings: Any) -> LoadPlan:
    settings = {"callers": 0, "duration_s": 0.5, "warmup_s": 0.1, **settings}
    return LoadPlan(server.address, (draw_image(40, 60),), **settings)


@pytest.mark.ci
def test_bench_starts_a_server_and_measures_its_process(
    limelens: Callable[..., Any], one_model: Path
) -> None:
    result = limelens("bench", "--models", one_model, "--size", "60x40", *SHORT)
    assert result.exit_code == 0, result.stderr
    found = result.json
    assert found["loop"] == "closed"
    assert found["classify"]["answered"] > 0
    assert found["classify"]["errors"] == {}
    latency = found["classify"]["latency_ms"]
    in_order = [latency[key] for key in ("p50", "p90", "p99", "p99_9", "max")]
    assert in_order == sorted(in_order)
    assert found["process"]["pss_mb"] > 10
    assert found["process"]["cpu_ms_per_picture"] > 0
    assert found["process"]["start_s"] > 0
    assert found["floor"]["per_s"] > 0
    assert found["ratio"]["throughput"] > 0
    assert found["ratio"]["cpu"] > 0
    assert found["sender"]["cores"] > 0


def test_bench_mixes_a_rate_cameras_and_explanations(
    limelens: Callable[..., Any], server: Any, tmp_path: Path
) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(draw_image(30, 30, i))
    result = limelens(
        *("bench", tmp_path, "--server", server.address, "--rate", 40, "--streams", 2),
        *("--fps", 10, "--explainers", 1, "--num-samples", 50, *SHORT, "--warmup", 0.1),
    )
    assert result.exit_code == 0, result.stderr
    found = result.json
    assert found["loop"] == "open"
    assert found["rate"] == 40
    for kind in ("classify", "stream", "explain"):
        assert found[kind]["answered"] > 0, kind
    assert found["classify"]["answered"] < 60
    assert found["floor"] is None
    assert found["ratio"] == {"throughput": None, "cpu": None}
    assert found["sender"]["late_p99_ms"] is not None


def test_bench_without_json_is_a_table(limelens: Callable[..., Any], server: Any) -> None:
    result = limelens("bench", "--server", server.address, "--duration", 0.3, "--warmup", 0)
    assert result.exit_code == 0, result.stderr
    assert "classify" in result.stdout
    assert "p99.9" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--size", "big"), 2, "expected WIDTHxHEIGHT"),
        (("--callers", "0", "--server", "127.0.0.1:1"), 1, "0, and neither a rate"),
        (("{empty}",), 1, "none found"),
        (("--models", "{empty}"), 1, "no models in it"),
        (("--models", "{empty}/gone"), 1, "gone: no such folder"),
        (("--models", "models", "--model", "/gone"), 1, "models has no model '/gone'; it has face"),
    ],
)
def test_bench_reports_errors(
    limelens: Callable[..., Any],
    tmp_path: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    message: str,
) -> None:
    result = limelens("bench", *(one.format(empty=tmp_path) for one in arguments), *SHORT)
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert result.stdout == ""


WITHOUT_PSUTIL = "import sys; sys.modules['psutil'] = None; "


def test_bench_names_the_missing_extra_before_it_starts_a_server(tmp_path: Path) -> None:
    code = WITHOUT_PSUTIL + "from limelens.cli import main; main()"
    # A server that was started would report that this folder has no models.
    command = [sys.executable, "-c", code, "bench", "--models", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "limelens: psutil, which measures a server's process, is not installed; "
        "pip install 'limelens[bench]'\n"
    )
    assert done.stdout == ""


def test_measuring_without_psutil_raises_a_limelens_error(server: Any) -> None:
    code = WITHOUT_PSUTIL + (
        "from limelens.serve.errors import MissingExtraError\n"
        "from limelens.serve.tools.load import Watch, local_server\n"
        "assert local_server('door.example:8500') is None\n"
        "for measure, target in ((Watch, 1), (local_server, sys.argv[1])):\n"
        "    try:\n"
        "        measure(target)\n"
        "    except MissingExtraError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, server.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install 'limelens[bench]'") == 2


def test_callers_in_several_processes_make_their_calls_and_no_more(server: Any) -> None:
    metrics = generate(
        plan(server, callers=7, calls_each=3, processes=2, duration_s=AT_MOST_S, warmup_s=0.0)
    )
    assert metrics.kinds[Kind.CLASSIFY].answered == 21
    assert server.counts().run == 21


def test_no_process_is_started_without_work(limelens: Callable[..., Any], server: Any) -> None:
    result = limelens("bench", "--server", server.address, "--callers", 1, "--processes", 4, *SHORT)
    assert result.exit_code == 0, result.stderr
    assert result.json["classify"]["answered"] > 0


def test_callers_cameras_and_explainers_are_divided_among_processes() -> None:
    mixed = LoadPlan("127.0.0.1:1", (b"",), callers=1, streams=2, explainers=1, processes=3)
    assert [mixed.share(one) for one in range(mixed.num_processes)] == [
        (Kind.CLASSIFY, Kind.EXPLAIN),
        (Kind.STREAM,),
        (Kind.STREAM,),
    ]
    at_a_rate = LoadPlan("127.0.0.1:1", (b"",), rate=9.0, streams=1, processes=2)
    assert at_a_rate.num_processes == 2
    assert [at_a_rate.share(one) for one in range(2)] == [(Kind.STREAM,), ()]


class Noting(grpc.GenericRpcHandler):
    """Responds to any call with its request, and records the callers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, bytes]] = []

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            self.calls.append((context.peer(), details.method, request))
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def noting() -> Iterator[tuple[str, Noting]]:
    """A plain gRPC server: its address, and its recorded calls."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    handler = Noting()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", handler
    server.stop(0).wait()


@pytest.mark.parametrize(("connections", "expected"), [(None, 2), (6, 6), (1, 2)])
def test_callers_use_all_their_connections(
    noting: tuple[str, Noting], connections: int | None, expected: int
) -> None:
    address, handler = noting
    metrics = generate(
        LoadPlan(
            address,
            (draw_image(40, 60),),
            callers=6,
            calls_each=2,
            processes=2,
            connections=connections,
            duration_s=AT_MOST_S,
            warmup_s=0.0,
        )
    )
    assert metrics.kinds[Kind.CLASSIFY].answered == 12
    assert len({peer for peer, _, _ in handler.calls}) == expected


def test_a_server_that_does_not_start_logs_the_reason(one_model: Path, tmp_path: Path) -> None:
    command = serve_command(one_model, "--num-threads", "0")
    log = tmp_path / "server.log"
    with pytest.raises(UnavailableError, match=r"server\.log"), started(command, log=log):
        pass
    assert "--num-threads" in log.read_text()


def test_broken_images_are_counted_by_their_status(server: Any) -> None:
    metrics = generate(
        plan(server, callers=4, calls_each=10, broken=1.0, duration_s=AT_MOST_S, warmup_s=0.0)
    )
    assert metrics.kinds[Kind.CLASSIFY].errors == {"INVALID_ARGUMENT": 40}
    assert metrics.kinds[Kind.CLASSIFY].latency_ms == {}


def test_calls_past_their_deadline_are_counted_by_their_status(server: Any) -> None:
    bundle = server.repository.get().bundle
    session, is_free = bundle.session, threading.Event()

    class Held:
        """Answers once all deadlines have passed."""

        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
            is_free.wait(PATIENCE_S)
            return session.run(outputs, feed)

    object.__setattr__(bundle, "session", Held())
    try:
        metrics = generate(
            plan(
                server,
                callers=40,
                calls_each=1,
                deadline_s=1.0,
                duration_s=AT_MOST_S,
                warmup_s=0.0,
            )
        )
    finally:
        is_free.set()
        object.__setattr__(bundle, "session", session)
    assert metrics.kinds[Kind.CLASSIFY].errors == {"DEADLINE_EXCEEDED": 40}
    with Client(server.address) as client:
        client.classify([draw_image(40, 60)])  # its turn comes after theirs
    # Those that had begun, and the last one.
    assert (server.counts().run <= 3, server.counts().overdue) == (True, 0)


@pytest.mark.ci
def test_in_an_open_loop_a_stall_delays_all_calls_due_meanwhile(server: Any) -> None:
    bundle = server.repository.get().bundle
    engine = server.server.runner.engine(bundle)

    class Slow:
        """Answers one at a time, 50 ms each: five times too slow for what comes."""

        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> Any:
            with lock:
                slow_by(0.05)
            return session.run(outputs, feed)

    lock, session = threading.Lock(), bundle.session
    object.__setattr__(bundle, "session", Slow())
    try:
        metrics = generate(plan(server, rate=100.0, duration_s=1.0, warmup_s=0.0))
    finally:
        object.__setattr__(bundle, "session", session)
    found = metrics.kinds[Kind.CLASSIFY]
    # Some 100 calls are due in one second and 20 are done: the last waits for about four more. A
    # closed loop would have measured 50 ms.
    assert found.answered > 50
    assert found.latency_ms["p90"] > 1000
    assert engine.counts.run == found.answered


def test_an_impossible_plan_is_refused(server: Any) -> None:
    with pytest.raises(InvalidRequestError, match="broken"):
        plan(server, callers=1, broken=2.0)


def test_percentiles_are_those_of_the_latencies() -> None:
    found = latency_metrics(np.arange(1, 1001) / 1000)
    assert found["p50"] == pytest.approx(500.5)
    assert found["p99_9"] == pytest.approx(999.001)
    assert found["max"] == pytest.approx(1000)
    assert latency_metrics(np.empty(0)) == {}


def test_drawn_images_are_jpegs_of_their_size() -> None:
    with Image.open(io.BytesIO(draw_image(224, 300))) as image:
        assert image.size == (300, 224)
        assert image.format == "JPEG"
    assert draw_image(64, 64, 1) != draw_image(64, 64, 2)


@pytest.mark.ci
def test_a_local_server_is_called_without_a_proxy(
    limelens: Callable[..., Any], server: Any, one_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for command in (
        ("doctor", "--server", server.address, "--json"),
        ("bench", "--server", server.address, *SHORT),
        ("bench", "--models", one_model, "--no-floor", *SHORT),
    ):
        result = limelens(*command)
        assert result.exit_code == 0, (command, result.stdout, result.stderr)


def test_bench_refuses_tls_and_tokens_for_its_own_server(
    limelens: Callable[..., Any], one_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    for option in (("--tls",), ("--token-file", tmp_path / "token")):
        result = limelens("bench", "--models", one_model, *option, *SHORT)
        assert result.exit_code == 2
        assert "does not use" in result.said
