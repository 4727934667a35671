"""`limelens serve` among models that cannot be read, as a user without rights on them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from tests.conftest import BundleMaker
from tests.waiting import PATIENCE_S, until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

_WITHOUT_RIGHTS = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


class Serving:
    """The command; root's right to read everything is taken from it."""

    def __init__(self, models: Path, log: Path, *options: str) -> None:
        if os.geteuid() == 0 and shutil.which("setpriv") is None:
            pytest.skip("root reads everything, and there is no setpriv to take that away")
        prefix = _WITHOUT_RIGHTS if os.geteuid() == 0 else ()
        self._log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [
                    *(*prefix, sys.executable, "-m", "limelens.cli", "serve"),
                    *("--models", str(models), "--listen", "127.0.0.1:0", "--device", "cpu"),
                    *("--num-threads", "2", "--reload-s", "0.2", *options),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        line = stdout.readline()
        assert line, self.log
        self.channel = grpc.insecure_channel(line.split(" on ")[1].split()[0])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def listed(self) -> dict[tuple[str, int], str]:
        """All models and versions, with the reason of those that do not answer."""
        stub = service_grpc.ClassifierServiceStub(self.channel)  # type: ignore[no-untyped-call]
        found = stub.ListModels(service_pb2.ListModelsRequest()).models
        return {(one.name, one.version): one.state_reason for one in found}

    def stop(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(models: Path, *options: Any) -> Serving:
        log = tmp_path / f"{len(started)}.log"
        started.append(Serving(models, log, *map(str, options)))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("unreadable", ["b", "b/1", "b/1/model.onnx"])
def test_a_model_that_cannot_be_read_stops_no_other(
    serving: Callable[..., Serving],
    bundles: BundleMaker,
    tmp_path: Path,
    processes: int,
    unreadable: str,
) -> None:
    models = tmp_path / "models"
    bundles.save(models, bundles.metadata("a"), 1)
    server = serving(models, "--processes", processes)
    bundles.save(tmp_path / "beside", bundles.metadata("b"), 1)
    (tmp_path / "beside" / unreadable).chmod(0)
    (tmp_path / "beside" / "b").rename(models / "b")
    try:
        until(lambda: any(name == "b" for name, _ in server.listed()))
        bundles.save(models, bundles.metadata("a"), 2)
        until(lambda: server.listed().get(("a", 2)) == "")
        stub = inference_grpc.GRPCInferenceServiceStub(server.channel)  # type: ignore[no-untyped-call]
        stub.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="a"))
        again = serving(models, "--processes", processes)
        for one in (server, again):
            [reason] = [why for (name, _), why in one.listed().items() if name == "b"]
            assert "Permission denied" in reason
            assert one.listed()["a", 1] == one.listed()["a", 2] == ""
            assert one.log.count("Permission denied") == 1
            assert "Traceback" not in one.log
    finally:
        (models / unreadable).chmod(0o700)
    until(lambda: server.listed().get(("b", 1)) == "")


@pytest.mark.ci
def test_a_repository_that_goes_away_is_reported_and_may_come_back(
    serving: Callable[..., Serving], bundles: BundleMaker, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    bundles.save(models, bundles.metadata("a"), 1)
    server = serving(models)
    models.rename(tmp_path / "elsewhere")
    until(lambda: "could not be scanned" in server.log)
    assert server.listed() == {("a", 1): ""}
    (tmp_path / "elsewhere").rename(models)
    bundles.save(models, bundles.metadata("a"), 2)
    until(lambda: ("a", 2) in server.listed())
    assert "Traceback" not in server.log
    [line] = [one for one in server.log.splitlines() if "could not be scanned" in one]
    assert "no such folder" in line
    assert "loaded versions stay in use" in line
