"""A tiny real bundle, and a real server for it."""

from __future__ import annotations

import asyncio
import datetime
import gc
import hashlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tests.waiting import PATIENCE_S

from limelens.serve.bundle import Golden, Metadata, Task
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.serve.processes.layout import usable_cores

# Threads that wait for each other cost tiny networks ten times their time on a busy machine; set
# before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: many tests wait, so two processes more than there are usable cores."""
    return usable_cores() + 2


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the garbage collector from millions of objects that stay: modules and their tests.

    It would look through them again and again, for a quarter of the time that collecting tests
    takes, and then while they run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Lets the interpreter free them at its end, of which some modules complain otherwise."""
    gc.unfreeze()


LABELS = ("red", "green", "blue")
SIZE = 32
_GAIN = 6.0


def mean_colour_graph(task: Task, size: int = SIZE) -> onnx.GraphProto:
    """images -> mean colour (the embedding) -> softmax, or sigmoid around a half."""
    activation = "Softmax" if task is Task.MULTICLASS else "Sigmoid"
    return helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "most"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled", "axes"], ["embedding"], keepdims=0),
            helper.make_node("Sub", ["embedding", "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "gain"], ["logits"]),
            helper.make_node(activation, ["logits"], ["probabilities"]),
        ],
        "mean_colour",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor("most", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("gain", TensorProto.FLOAT, [], [_GAIN]),
        ],
    )


def mean_colour_probabilities(image: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
    """What the graph must say of one image."""
    logits: NDArray[np.float64] = (image.reshape(-1, 3).mean(axis=0) / 255 - 0.5) * _GAIN
    powers = np.exp(logits - logits.max()) if task is Task.MULTICLASS else np.exp(logits)
    whole = powers.sum() if task is Task.MULTICLASS else 1 + powers
    probabilities: NDArray[np.float32] = (powers / whole).astype(np.float32)
    return probabilities


def mean_colour_metadata(name: str = "colours", task: Task = Task.MULTICLASS) -> Metadata:
    """Metadata that fits the graph."""
    golden = np.random.default_rng(7).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Metadata(
        name=name,
        task=task,
        labels=LABELS,
        resize=ResizeRule(SIZE, SIZE, ResizeMode.STRETCH),
        golden=Golden(
            golden,
            mean_colour_probabilities(golden, task),
            {"CPUExecutionProvider": 1e-4, "CUDAExecutionProvider": 1e-3},
        ),
        threshold=0.5 if task is Task.MULTICLASS else 0.0,
        label_thresholds=() if task is Task.MULTICLASS else (0.5, 0.6, 0.7),
        alert_labels=("red",),
        macro_labels={"red": "warm", "green": "cold", "blue": "cold"},
        card={"note": "made by a test"},
    )


def make_model(metadata: Metadata, graph: onnx.GraphProto | None = None) -> onnx.ModelProto:
    """The bundle as an ONNX model, not checked."""
    model = helper.make_model(
        graph or mean_colour_graph(metadata.task),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(model, metadata.to_props())
    return model


def save_bundle(folder: Path, metadata: Metadata, version: int = 1) -> Path:
    """Writes folder/name/version/model.onnx and returns its path."""
    path = folder / metadata.name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(make_model(metadata).SerializeToString())
    return path


@dataclass(frozen=True)
class BundleMaker:
    """Makes bundles; see the functions of the same names in tests/conftest.py."""

    metadata: Callable[..., Metadata] = mean_colour_metadata
    graph: Callable[..., onnx.GraphProto] = mean_colour_graph
    model: Callable[..., onnx.ModelProto] = make_model
    save: Callable[..., Path] = save_bundle
    probabilities: Callable[..., NDArray[np.float32]] = mean_colour_probabilities


@pytest.fixture(scope="session")
def bundles() -> BundleMaker:
    return BundleMaker()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: `colours` 1 and 2 (multiclass), `tags` 1 (multilabel)."""
    folder = tmp_path_factory.mktemp("models")
    save_bundle(folder, mean_colour_metadata(), 1)
    save_bundle(folder, replace(mean_colour_metadata(), threshold=0.9), 2)
    save_bundle(folder, mean_colour_metadata("tags", Task.MULTILABEL), 1)
    return folder


@pytest.fixture(scope="session")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `colours` 1 alone."""
    folder = tmp_path_factory.mktemp("one_model")
    save_bundle(folder, mean_colour_metadata(), 1)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Data that is not in the repository."""
    folder = os.environ.get("LIMELENS_DATA")
    if not folder:
        pytest.skip("LIMELENS_DATA is not set; it names the folder that holds badimages")
    return Path(folder)


class RunningServer:
    """A real server on loopback in a thread of its own."""

    def __init__(self, config: Any) -> None:
        from limelens.serve.rpc.server import Server
        from limelens.serve.run_server import drift_watch, open_repository

        self.repository = open_repository(config)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

        async def start() -> Server:
            drift = drift_watch(config, self.repository)
            server = Server(config, self.repository, drift=drift)
            await server.start()
            return server

        self.server = self.call(start())
        self.address: str = self.server.address
        self.service = self.server.service
        self._stopped = False
        self._channels: list[Any] = []

    def call(self, coroutine: Any) -> Any:
        """Runs a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(2 * PATIENCE_S)

    def engine(self, name: str = "") -> Any:
        """The engine that runs a model."""
        return self.server.runner.engine(self.repository.get(name).bundle)

    def counts(self, name: str = "") -> Any:
        """What the engine of a model has done."""
        return self.engine(name).counts

    def stub(self) -> Any:
        """The generated stub on a plain channel without retries, closed with the server."""
        import grpc

        from limelens.v1 import classifier_service_pb2_grpc as service_grpc

        options = [
            ("grpc.enable_retries", 0),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 2**20),
            ("grpc.use_local_subchannel_pool", 1),  # else all stubs share one connection
        ]
        self._channels.append(grpc.insecure_channel(self.address, options))
        return service_grpc.ClassifierServiceStub(self._channels[-1])  # type: ignore[no-untyped-call]

    def stop(self, grace_s: float = 5.0) -> None:
        if self._stopped:
            return
        self._stopped = True
        self.call(self.server.stop(grace_s))
        for channel in self._channels:
            channel.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


@pytest.fixture
def own_port() -> Iterator[Callable[[], int]]:
    """Gives ports of loopback that are the test's own until its end, also while nobody listens.

    The system gives a free port to whoever asks next, such as a test beside this one. A bound one
    it gives to nobody, yet servers that set SO_REUSEADDR, as nearly all do, can listen on it by its
    number. While none does, connections are refused.
    """
    with ExitStack() as held:

        def take() -> int:
            one = held.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            return port

        yield take


@pytest.fixture
def start_server(
    one_model: Path, own_port: Callable[[], int]
) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers that are stopped after the test; arguments as of `ServerConfig`.

    Where one was stopped, another can be started.
    """
    from limelens.serve.rpc.server import ServerConfig

    started: list[RunningServer] = []

    def start(models: Path | None = None, **settings: Any) -> RunningServer:
        # Without a watcher, unless a test is about it: tests change folders under servers.
        reload = "watch" if "reload_s" in settings else "request"
        settings = {"num_threads": 2, "reload": reload, **settings}
        settings = {"device": "cpu", "face_detector": "none", **settings}
        if "listen" not in settings:
            settings["listen"] = f"127.0.0.1:{own_port()}"
        started.append(RunningServer(ServerConfig(models=models or one_model, **settings)))
        return started[-1]

    yield start
    for server in started:
        server.stop(0)  # no call is left that a graceful stop would serve


@pytest.fixture
def serve_process(
    one_model: Path, own_port: Callable[[], int]
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts servers in processes of their own, which can be stopped and killed, by address."""
    started: list[subprocess.Popen[str]] = []

    def start(listen: str = "") -> tuple[subprocess.Popen[str], str]:
        listen = listen or f"127.0.0.1:{own_port()}"
        started.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "limelens.cli", "serve", "--models", str(one_model)),
                    *("--listen", listen, "--device", "cpu"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        assert started[-1].stdout is not None
        return started[-1], started[-1].stdout.readline().split(" on ")[1].split()[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@dataclass
class TokenFile:
    """A file of clients whose tokens are `NAME-token`."""

    path: Path
    entries: dict[str, str] = field(default_factory=dict)

    def set(self, name: str, rights: Sequence[str], *more: str, subject: str = "") -> str:
        """Adds or changes a client; `more` are lines. Returns its token."""
        token = f"{name}-token"
        shown = (
            f'subject = "{subject}"'
            if subject
            else f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"'
        )
        lines = ["[[client]]", f'name = "{name}"', shown, f"rights = {list(rights)}", *more]
        self.entries[name] = "\n".join(lines) + "\n"
        self.write()
        return token

    def remove(self, name: str) -> None:
        del self.entries[name]
        self.write()

    def write(self) -> None:
        self.path.write_text("# who may call\n" + "\n".join(self.entries.values()))
        self.path.chmod(0o600)

    def access(self, **settings: Any) -> Any:
        from limelens.serve.access.config import AccessConfig

        return AccessConfig(**{"tokens": self.path, "check_s": 0.05, **settings})


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.toml")


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Runs a web server in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Authority:
    """Signs certificates; they are written beside its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        self._write(self.path, self._certificate(self._subject, self._key, 2, is_ca=True))

    def issue(self, name: str, *, days: int = 2, begins: int = -9) -> tuple[Path, Path]:
        """A certificate of `CN=name,O=Doors`, good from day to day counted from now; its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Doors"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            ]
        )
        chain, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self._write(chain, self._certificate(subject, key, days, is_ca=False, begins=begins))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, private

    def _certificate(
        self, subject: x509.Name, key: Any, days: int, *, is_ca: bool, begins: int = -9
    ) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=begins))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, path: Path, certificate: Any) -> None:
        path.write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes authorities, each with a folder of its own."""
    return lambda name: Authority(tmp_path / name, name)
