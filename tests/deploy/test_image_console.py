"""The image that watches cameras (EXTRAS=console), run as deploy/compose-door.yaml runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import Build, RunImage
from tests.deploy.container import Container
from tests.deploy.image_building import ROOT, BuiltImage
from tests.deploy.test_systemd import CAMERA
from tests.watch.sinks.brokers import mosquitto

pytestmark = pytest.mark.slow

MOST_BYTES = 300e6
SERVICE = yaml.safe_load((ROOT / "deploy/compose-door.yaml").read_text())["services"]["watch"]
PASSWORD = "a password of many words"
LOGGING_IN = """
import sys
from pathlib import Path
from tests.watch.console.conftest import Browser

with Browser("https://localhost:8600", Path(sys.argv[1])) as browser:
    print(browser.log_in("guard", sys.argv[2]).status_code)
    print("front-left" in browser.get("/events").text)
"""


@pytest.fixture(scope="module")
def image(build_image: Build) -> BuiltImage:
    return build_image("limelens-watch", "EXTRAS=console")


@contextmanager
def beside(container: Container, *command: object) -> Iterator[subprocess.Popen[str]]:
    """Runs a command of this machine in the container's network until the context ends."""
    words = ["nsenter", f"--net=/proc/{container.pid}/ns/net", *map(str, command)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def door(path: Path, camera: str) -> None:
    """Writes the example of the door, with the services on this machine, and this camera twice."""
    text = (ROOT / "deploy/compose-door.toml").read_text()
    for example, here in (
        ("rtsp://192.0.2.11/live", camera),
        ("rtsp://192.0.2.12/live", camera),
        ('"limelens:8500"', '"localhost:8500"'),
        ('"mosquitto"', '"localhost"'),
        ("faces = true\n", ""),  # the camera shows a colour
    ):
        assert example in text
        text = text.replace(example, here)
    path.write_text(text)


def broker(folder: Path, secrets: Path) -> list[str | Path]:
    """The command of Mosquitto with deploy/mosquitto.conf."""
    text = (ROOT / "deploy/mosquitto.conf").read_text() + "user root\n"
    text = text.replace("/run/secrets", str(secrets))
    acl = shutil.copy(ROOT / "deploy/mosquitto.acl", folder)
    config = folder / "mosquitto.conf"
    config.write_text(text.replace("/mosquitto/config/mosquitto.acl", str(acl)))
    passwords = secrets / "mosquitto.passwords"
    made: list[str | Path] = ["mosquitto_passwd", "-c", "-b", passwords, "limelens", "of limelens"]
    subprocess.run(made, check=True, capture_output=True)
    (secrets / "mqtt.password").write_text("of limelens\n")
    return [mosquitto(), "-c", config]


def test_the_image_holds_no_runtime_of_models(image: BuiltImage, root: Path) -> None:
    assert image.size_bytes() < MOST_BYTES
    (packages,) = (root / "opt/limelens/lib").glob("*/site-packages")
    unwanted = ("onnxruntime", "torch", "skimage", "pip")
    assert not [one for one in unwanted if (packages / one).exists()]


def test_it_watches_a_door_shows_the_page_and_drains(
    run_image: RunImage, secrets: Path, one_model: Path, tmp_path: Path
) -> None:
    state, config = tmp_path / "state", tmp_path / "config"
    for folder in (state, config):
        folder.mkdir()
    os.chown(state, 65532, 65532)
    (secrets / "watch.token").write_text((secrets / "token").read_text())
    (secrets / "camera.password").write_text("user:secret\n")
    (secrets / "password").write_text(f"{PASSWORD}\n")
    mqtt = broker(tmp_path, secrets)
    door(config / "door.toml", "rtsp://127.0.0.1:9/live")
    for path in secrets.iterdir():
        path.chmod(0o644)
    mounts: Any = {
        "volumes": {"/etc/limelens": config, "/run/secrets": secrets},
        "written": {"/var/lib/limelens": state},
    }
    users = ["--file", "/var/lib/limelens/console.users"]
    adding = ["console", "users", "add", "guard", "--role", "viewer", *users]
    code, _, errors = run_image(
        *adding, "--password-file", "/run/secrets/password", **mounts
    ).ends()
    assert code == 0, errors
    (state / "console.users").rename(secrets / "console.users")

    container = run_image(*SERVICE["command"], **mounts)
    serve = ["-m", "limelens.cli", "serve", "--models", one_model, "--listen", "127.0.0.1:8500"]
    serve += ["--tls-cert", secrets / "tls.crt", "--tls-key", secrets / "tls.key"]
    with ExitStack() as services:
        camera = services.enter_context(beside(container, sys.executable, "-c", CAMERA))
        server = services.enter_context(
            beside(container, sys.executable, *serve, "--tokens", secrets / "tokens.toml")
        )
        services.enter_context(beside(container, *mqtt))
        assert "127.0.0.1:8500" in line_of(server)
        door(config / "door.toml", line_of(camera).replace("user:secret@", ""))
        container.signal("HUP")
        container.says("front-left  clear")

        health = container.execute(*SERVICE["healthcheck"]["test"][1:])
        assert health.returncode == 0, health.stderr
        asked = container.beside(
            sys.executable, "-c", LOGGING_IN, secrets / "ca.pem", PASSWORD, cwd=ROOT
        )
        assert asked.stdout.split() == ["303", "True"], asked.stderr
        heard = container.beside(
            *("mosquitto_sub", "-h", "localhost", "-p", "8883", "--cafile", secrets / "ca.pem"),
            *("-u", "limelens", "-P", "of limelens", "-C", "1", "-W", "60"),
            *("-t", "limelens/cameras/front-left/state"),
        )
        assert heard.stdout.strip() == "clear", heard.stderr
        container.signal("TERM")
        code, _, errors = container.ends()
    assert code == 0, errors
    assert "Traceback" not in errors
    assert list((state / "record").iterdir())
