"""The units under a real systemd, which runs in namespaces of its own.

Options, sandbox and user are those of the units in deploy/; only the watchdogs are less patient.
The network is of its own too, so that the ports are free.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import mean_colour_metadata, save_bundle
from tests.deploy.test_units import service
from tests.waiting import until

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
WATCHDOG_S = 8
TO_FILE = "StandardOutput=append:/run/log\nStandardError=append:/run/log\n"  # there is no journal
CAMERA = (
    "from tests.cameras.mjpeg_camera import MjpegCamera\n"
    "with MjpegCamera() as camera:\n"
    "    camera.colour = (0, 250, 0)\n"
    "    print(camera.url, flush=True)\n"
    "    input()\n"
)
PARTS = ("train", "serve", "explain", "proto", "models")


class Machine:
    """A systemd and what it runs.

    Args:
        pid: Its number here; within, it is 1.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command beside it, with a text to read."""
        there = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--net"]
        return subprocess.run(
            [*there, *command], input=text, capture_output=True, text=True, timeout=120, check=False
        )

    def write(self, path: str, text: str) -> None:
        """Writes a file that it sees."""
        written = self.run("tee", path, text=text)
        assert written.returncode == 0, written.stderr

    def beside(self, code: str) -> subprocess.Popen[str]:
        """Runs Python in its network, but not in its file system."""
        return subprocess.Popen(
            ["nsenter", "--target", str(self._pid), "--net", sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )

    def systemctl(self, *words: str) -> str:
        found = self.run("systemctl", *words)
        assert found.returncode == 0, f"{words}: {found.stderr}{self.log()}"
        return found.stdout

    def log(self) -> str:
        """What the server said."""
        return self.run("cat", "/run/log").stdout

    def show(self, key: str, unit: str = "limelens") -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={key}", unit).strip()

    def until(self, key: str, value: str, unit: str = "limelens") -> None:
        """Waits until a property has a value."""
        until(lambda: self.show(key, unit) == value, 120)

    def processes(self, unit: str = "limelens") -> set[str]:
        """The numbers of a unit's processes, as seen within."""
        group = self.show("ControlGroup", unit)
        return set(self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs").stdout.split())

    def version(self) -> int:
        """The version of the model that classifies an image, which is red."""
        answer = self.run(
            *("/opt/limelens/bin/limelens", "classify", "/etc/limelens/red.png"),
            *("--server", "localhost:8500", "--ca", "/etc/limelens/ca.pem"),
            *("--token-file", "/etc/limelens/token", "--json"),
        )
        assert answer.returncode == 0, f"{answer.stderr}{self.log()}"
        (found,) = json.loads(answer.stdout)
        assert found["label"] == "red"
        return int(found["version"])

    def is_reloaded(self, unit: str = "limelens") -> None:
        """Lets a unit reload, in the process that it has."""
        pid = self.show("MainPID", unit)
        self.systemctl("reload", unit)
        self.until("SubState", "running", unit)
        assert self.show("MainPID", unit) == pid

    def is_restarted_if_stuck(self, unit: str = "limelens") -> None:
        """Stops a unit's main process, so that the watchdog starts all of it again."""
        pid, stuck = self.show("MainPID", unit), self.processes(unit)
        self.run("kill", "-STOP", pid)
        self.until("NRestarts", "1", unit)
        self.until("SubState", "running", unit)
        assert not stuck & self.processes(unit)

    def is_stopped(self, unit: str = "limelens") -> None:
        """Stops a unit, which must end well."""
        self.systemctl("stop", unit)
        assert (self.show("Result", unit), self.show("ExecMainStatus", unit)) == ("success", "0")


def installed(folder: Path) -> Path:
    """An /opt with this Python and this checkout, for users who cannot see where they lie."""
    ours = folder / "opt" / "limelens"
    links = {"python": sys.base_prefix, "environment": sys.prefix}
    links |= {name: str(CHECKOUT / name) for name in PARTS}
    for name in links:
        (ours / name).mkdir(parents=True)
    (ours / "bin").mkdir()
    major, minor = sys.version_info[:2]
    paths = ":".join(f"/opt/limelens/{name}" for name in PARTS[:4])
    library = f"lib/python{major}.{minor}/site-packages"
    command = ours / "bin" / "limelens"
    command.write_text(
        "#!/bin/sh\n"
        "export PYTHONHOME=/opt/limelens/python LD_LIBRARY_PATH=/opt/limelens/python/lib\n"
        f"export PYTHONPATH={paths}:/opt/limelens/environment/{library}\n"
        f'exec /opt/limelens/python/bin/python{major}.{minor} -m limelens.cli "$@"\n'
    )
    command.chmod(0o755)
    (folder / "mounts").write_text(
        "".join(f"mount --bind '{where}' '{ours / name}'\n" for name, where in links.items())
    )
    return folder / "opt"


def is_removed(group: Path) -> bool:
    """Removes a control group and those below, as far as their processes have ended."""
    for one in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            one.rmdir()
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


@pytest.fixture
def machine(
    tmp_path: Path, one_model: Path, authority: Callable[..., Any], tokens: Any
) -> Iterator[Machine]:
    tools = ("unshare", "nsenter", "mount", "ip", "systemctl")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    groups = next((Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2"), None)
    if missing or not SYSTEMD.is_file() or groups is None or os.geteuid() != 0:
        pytest.skip(
            "a systemd of its own needs systemd, util-linux, cgroup2 and the rights of root"
        )
    tmp_path.chmod(0o755)
    units, etc = tmp_path / "units", tmp_path / "etc"
    units.mkdir()
    for unit in [path.name for path in (CHECKOUT / "deploy").glob("*.service")]:
        shutil.copy(CHECKOUT / "deploy" / unit, units)
        patience = units / f"{unit}.d" / "patience.conf"
        patience.parent.mkdir()
        patience.write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}\n{TO_FILE}")
    # What services wait for, and a machine without other services lacks.
    for name in ("nothing", "sysinit", "basic", "shutdown", "network-online"):
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    ca = authority("server")
    chain, key = ca.issue("localhost")
    etc.mkdir()
    shutil.copy(chain, etc / "tls.crt")
    shutil.copy(key, etc / "tls.key")
    shutil.copytree(one_model, tmp_path / "srv" / "limelens" / "models")
    for folder in (one_model.parent, *(tmp_path / "srv").rglob("*")):
        folder.chmod(0o755)
    tokens.path = etc / "tokens.toml"
    token = tokens.set("door", ["classify", "explain", "models"])
    (etc / "token").write_text(token)
    for secrets in (etc / "camera" / "front.secrets", etc / "watch" / "front.secrets"):
        secrets.mkdir(parents=True, mode=0o700)
        (secrets / "token").write_text(token)
        (secrets / "camera").write_text("user:secret\n")
    shutil.copy(ca.path, etc / "ca.pem")
    Image.new("RGB", (64, 64), (250, 0, 0)).save(etc / "red.png")
    opt = installed(tmp_path)
    group = groups / f"limelens-{os.getpid()}"
    group.mkdir()
    process = subprocess.Popen(
        [
            *("sh", "-euc", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)),
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--net"),
            *("sh", "-euc", '. "$0"; exec sh "$@"', str(tmp_path / "mounts")),
            *(str(HERE / "systemd_alone.sh"), str(units), str(opt), str(etc)),
            str(tmp_path / "srv"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: process.poll() is not None or children.read_text())
    one = Machine(int(children.read_text() or 0))
    try:
        until(
            lambda: (
                process.poll() is not None
                or one.run("systemctl", "is-system-running").stdout.strip() == "running"
            )
        )
        if process.poll() is not None:
            pytest.skip(f"no systemd of its own: {process.communicate()[0][-300:]}")
        yield one
    finally:
        process.kill()  # and with it all that it started
        process.communicate()
        until(lambda: is_removed(group))


@pytest.mark.parametrize("options", ["", " --processes 2"])
def test_it_starts_reloads_is_restarted_by_the_watchdog_and_stops(
    machine: Machine, tmp_path: Path, options: str
) -> None:
    command = service("limelens.service")["ExecStart"] + options
    changed = tmp_path / "units" / "limelens.service.d" / "options.conf"
    changed.write_text(f"[Service]\nExecStart=\nExecStart={command}\n")
    machine.systemctl("daemon-reload")
    status = "serving 1 model on 0.0.0.0:8500" + (", 2 processes" if options else "")

    machine.systemctl("start", "limelens")  # returns once the server says that it is ready
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText") == status
    assert machine.version() == 1

    save_bundle(tmp_path / "srv/limelens/models", mean_colour_metadata(), 2)
    machine.is_reloaded()
    assert machine.version() == 2

    machine.is_restarted_if_stuck()
    assert machine.show("StatusText") == status
    assert machine.version() == 2

    if options:  # a worker is replaced without systemd's help
        before = machine.processes()
        pid = machine.show("MainPID")
        machine.run("kill", "-KILL", max(before - {pid}, key=int))
        until(lambda: machine.processes() - before, 120)
        assert machine.version() == 2
        assert (machine.show("NRestarts"), machine.show("MainPID")) == ("1", pid)

    machine.is_stopped()


def door(camera: str) -> str:
    """The example of a door, with this camera twice."""
    text = (CHECKOUT / "deploy" / "door.toml").read_text()
    for example, here in (
        ("rtsp://192.0.2.11/live", camera),
        ("rtsp://192.0.2.12/live", camera),
        ("classifier.example", "localhost"),
        ("faces = true\n", ""),  # the camera shows a colour
        ('schedule = "mon-fri 06:00-22:00"\n', ""),
    ):
        assert example in text
        text = text.replace(example, here)
    return text


def test_a_door_is_watched_and_its_file_is_read_again(machine: Machine) -> None:
    unit, path = "limelens-watch@front", "/etc/limelens/watch/front.toml"
    with machine.beside(CAMERA) as camera:
        assert camera.stdin is not None
        assert camera.stdout is not None
        url = camera.stdout.readline().strip().replace("user:secret@", "")
        text = door(url)
        machine.write(path, text)
        machine.systemctl("start", "limelens", unit)
        assert machine.show("StatusText", unit) == "watching 2 cameras"
        until(lambda: "front-right  clear" in machine.log(), 120)

        machine.write(path, text + "[[camera")
        machine.is_reloaded(unit)
        assert machine.show("StatusText", unit).startswith(f"not reloaded: {path}: ")
        machine.write(path, text + f'[[camera]]\nid = "back"\nsource = "{url}"\n')
        machine.is_reloaded(unit)
        assert machine.show("StatusText", unit) == "watching 3 cameras"

        machine.is_restarted_if_stuck(unit)
        machine.is_stopped(unit)
        assert machine.run("ls", "/var/lib/limelens-watch/front/record").stdout
        camera.stdin.close()


def test_a_camera_is_watched_and_said_in_lines(machine: Machine) -> None:
    unit = "limelens-camera@front"
    token = f"--token-file /run/credentials/{unit}.service/secrets_token"
    with machine.beside(CAMERA) as camera:
        assert camera.stdin is not None
        assert camera.stdout is not None
        lines = [
            f"CAMERA={camera.stdout.readline().strip()}",
            "SERVER=localhost:8500",
            f"OPTIONS=--fps 5 --ca /etc/limelens/ca.pem {token}",
        ]
        machine.write("/etc/limelens/camera/front.env", "\n".join(lines))
        machine.systemctl("start", "limelens", unit)
        assert machine.show("StatusText", unit).startswith("watching http://127.0.0.1:")
        until(lambda: '"state": "clear"' in machine.log(), 120)

        machine.is_restarted_if_stuck(unit)
        machine.is_stopped(unit)
        assert '"reason": "off"' in machine.log()
        camera.stdin.close()
