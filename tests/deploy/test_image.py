"""The image of deploy/Dockerfile: built, then run as a container with a read-only root.

`make image-test` runs this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.deploy.conftest import Build, RunImage
from tests.deploy.image_building import ROOT, BuiltImage
from tests.waiting import until

pytestmark = pytest.mark.slow

MOST_BYTES = 450e6
STUB_ONLY = ROOT / "examples" / "python" / "stub_only.py"
EXPLAINING = """
import sys
from pathlib import Path
from limelens.serve.client import Client, Tls

photo, ca, token = map(Path, sys.argv[1:])
with Client("localhost:8500", tls=Tls(ca), token=token.read_text()) as client:
    updates = client.explain_stream(photo, num_samples=1000)
    next(updates)
    print("begun", flush=True)
    for last in updates:
        pass
    print(last.explanation.num_samples)
"""


def files_of(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)


@pytest.fixture(scope="module")
def image(build_image: Build) -> BuiltImage:
    return build_image("limelens", "ACCEL=cpu")


def test_the_image_says_how_it_is_run(image: BuiltImage) -> None:
    config = image.config()
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["limelens"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == [
        *("CMD", "limelens", "doctor", "--health", "--server", "127.0.0.1:8502")
    ]


def test_the_image_is_small_and_holds_nothing_to_build_or_look_around_with(
    image: BuiltImage, root: Path
) -> None:
    assert image.size_bytes() < MOST_BYTES
    found = list(files_of(root))
    names = {path.name for path in found}
    tools = {"sh", "bash", "dash", "gcc", "cc", "ld", "as", "strip", "pip", "pip3", "apt", "dpkg"}
    assert not names & tools
    (packages,) = (root / "opt" / "limelens" / "lib").glob("*/site-packages")
    assert (packages / "onnxruntime").is_dir()
    assert not [
        one for one in ("torch", "torchvision", "pip", "tests") if (packages / one).exists()
    ]
    assert not [path for path in found if path.lstat().st_mode & 0o6000], "setuid or setgid"


def test_a_client_of_stubs_alone_classifies_and_explains(
    run_image: RunImage, photo: Path, tmp_path: Path
) -> None:
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    contract = sorted(ROOT.glob("proto/limelens/v1/*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}"),
            *(f"--python_out={stubs}", f"--grpc_python_out={stubs}", *map(str, contract)),
        ],
        check=True,
    )
    venv.create(tmp_path / "client", with_pip=True)
    python = tmp_path / "client" / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", f"--constraint={ROOT}/constraints.txt"]
    subprocess.run([python, *install, "grpcio", "protobuf"], check=True)
    container = run_image("serve")
    container.says("127.0.0.1:8500")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(stubs)}
    asked = container.beside(
        python, STUB_ONLY, "127.0.0.1:8500", photo, env=environment, cwd=tmp_path
    )
    assert asked.returncode == 0, asked.stderr
    assert "without_mask" in asked.stdout
    with Image.open(tmp_path / "why.png") as why:
        assert why.format == "PNG"


def test_it_serves_closed_and_drains(
    image: BuiltImage, run_image: RunImage, secrets: Path, photo: Path
) -> None:
    command = [*image.config()["Cmd"], "--grace-s=300"]
    container = run_image(*command, volumes={"/run/secrets": secrets, "/photo.png": photo})
    container.says("0.0.0.0:8500")
    status = (Path("/proc") / str(container.pid) / "status").read_text()
    said = dict(line.split(":", 1) for line in status.splitlines())
    assert said["Uid"].split() == said["Gid"].split() == ["65532"] * 4
    assert said["NoNewPrivs"].strip() == "1"
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0

    test = ["limelens", "doctor", "--health", "--server", "127.0.0.1:8502"]
    health = container.execute(*test)
    assert health.returncode == 0, health.stdout + health.stderr
    at = ["--server", "localhost:8500", "--ca", "/run/secrets/ca.pem"]
    at += ["--token-file", "/run/secrets/token"]
    for method in ("slic", "quickshift", "felzenszwalb", "grid"):
        written = [f"/tmp/{name}-{method}.png" for name in ("why", "heat", "segments")]
        explained = container.execute(
            *("limelens", "explain", "/photo.png", *at, "--segmentation", method),
            *("--num-samples", "100", "--out", written[0], "--heat-map", written[1]),
            *("--segments", written[2], "--feature-selection", "lasso_path"),
        )
        assert explained.returncode == 0, explained.stdout + explained.stderr
    shown = Path("/proc", str(container.pid), "root", "tmp")
    drawn = sorted(path.name for path in shown.iterdir())
    assert len(drawn) == 12, "what was asked for, and nothing of onnxruntime's or of the server"
    for path in shown.iterdir():
        with Image.open(path) as drawing:
            assert drawing.format == "PNG"
    faces = container.execute(
        "limelens", "classify", "/photo.png", *at, "--faces", "--draw", "/tmp/faces.png"
    )
    assert "1 face" in faces.stdout, faces.stderr

    word = ["nsenter", f"--net=/proc/{container.pid}/ns/net", sys.executable, "-c", EXPLAINING]
    with subprocess.Popen(
        [*word, photo, secrets / "ca.pem", secrets / "token"], stdout=subprocess.PIPE, text=True
    ) as explaining:
        assert explaining.stdout is not None
        assert explaining.stdout.readline() == "begun\n"
        container.signal("TERM")
        assert explaining.communicate(timeout=300)[0] == "1000\n"
    code, _, errors = container.ends()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_without_secrets_it_names_the_missing_file(run_image: RunImage) -> None:
    code, _, errors = run_image().ends()
    assert code == 1
    assert "/run/secrets/tls.crt is no file" in errors


def test_a_broken_version_in_the_volume_stops_no_other(
    run_image: RunImage, models: Path, photo: Path, tmp_path: Path
) -> None:
    shown = tmp_path / "shown"
    shutil.copytree(models, shown)
    broken = shown / "colours" / "3"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no model")
    for path in (shown, *shown.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    container = run_image("serve", volumes={"/srv/models": shown, "/photo.png": photo})
    container.says("127.0.0.1:8500")
    at = ["--server", "127.0.0.1:8500", "--model", "colours", "--json"]
    asked = container.execute("limelens", "classify", "/photo.png", *at)
    assert json.loads(asked.stdout)[0]["version"] == 2, asked.stderr
    container.signal("TERM")
    code, _, errors = container.ends()
    assert code == 0
    assert "refused colours version 3" in errors


def test_a_full_tmp_stops_no_answer(run_image: RunImage, photo: Path) -> None:
    container = run_image("serve", volumes={"/photo.png": photo}, tmp="1m")
    container.says("127.0.0.1:8500")
    full = Path("/proc", str(container.pid), "root", "tmp", "full")
    filled = subprocess.run(
        ["dd", "if=/dev/zero", f"of={full}"], capture_output=True, text=True, check=False
    )
    assert "No space left" in filled.stderr
    for command in ("classify", "explain"):
        asked = container.execute("limelens", command, "/photo.png", "--server", "127.0.0.1:8500")
        assert asked.returncode == 0, asked.stderr
        assert "without_mask" in asked.stdout


def test_a_signal_during_the_start_ends_it(run_image: RunImage, secrets: Path) -> None:
    container = run_image(volumes={"/run/secrets": secrets})
    process = Path("/proc", str(container.pid))

    def handles_it() -> bool:
        caught = [
            x for x in (process / "status").read_text().splitlines() if x.startswith("SigCgt")
        ]
        return bool(int(caught[0].split()[1], 16) & 1 << 14)

    until(handles_it)  # the kernel ignores it for a first process that handles it not yet
    container.signal("TERM")
    code, output, errors = container.ends()
    assert (code, errors) == (0, "")
    assert "8500" not in output, "it was not during the start"


def test_the_page_of_licences_is_that_of_the_image(root: Path) -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "deploy" / "licences.py", root],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / "docs" / "licences.md").read_text() == printed
    for text in set(re.findall(r"`/(usr/share/[^`]+)`", printed)):
        assert (root / text).is_file(), text
