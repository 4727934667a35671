"""Runs a built image as a container of its own: by crun, in namespaces of the kernel.

The container has the options of deploy/compose.yaml: a read-only root, a small /tmp, no
capabilities, and a network of its own, which nothing outside reaches. Knows nothing of how an image
is built.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import until

# crun wants the groups of version 2, or of version 1 alone; many machines mix them.
_GROUPS = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")


@dataclass(frozen=True)
class Container:
    """A started container; its process is the first one of its namespace, as in docker.

    Attributes:
        name: Its name at crun.
        folder: What crun knows of it.
        process: What waits for it, and has its output.
    """

    name: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The process id of its first process, seen from here."""
        state = _crun(self.folder, "state", self.name, capture_output=True, text=True, check=True)
        return int(json.loads(state.stdout)["pid"])

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command within, as its user: `docker exec`."""
        return _crun(
            self.folder, "exec", self.name, *command, capture_output=True, text=True, timeout=300
        )

    def beside(self, *command: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command of this machine in the container's network."""
        words = ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, command)]
        return subprocess.run(
            words, capture_output=True, text=True, timeout=300, check=False, **options
        )

    def signal(self, name: str) -> None:
        """Sends its first process a signal, as `docker stop` does."""
        _crun(self.folder, "kill", self.name, name, check=True)

    def ends(self, timeout_s: float = 60) -> tuple[int, str, str]:
        """Its exit code, output and errors, once it has ended."""
        output, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, output, errors

    def says(self, text: str) -> None:
        """Waits until it has printed a line with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"it ended without saying {text!r}: {self.ends()}")


@dataclass
class Containers:
    """Starts containers of one image and ends them.

    Attributes:
        root: The image's files.
        config: The image's configuration, as in its manifest: User, Env, Entrypoint, Cmd, ….
        folder: For what crun keeps.
    """

    root: Path
    config: Mapping[str, Any]
    folder: Path
    started: list[Container] = field(default_factory=list)
    _mounted: set[Path] = field(default_factory=set)

    def run(
        self,
        *arguments: str,
        volumes: Mapping[str, Path] | None = None,
        written: Mapping[str, Path] | None = None,
        user: int | None = None,
        tmp: str = "64m",
    ) -> Container:
        """Starts one: `docker run` with these arguments after the image's name.

        It can only read its volumes, but for those that are `written`.
        """
        volumes = {**(volumes or {}), **(written or {})}
        name = f"limelens-test-{len(self.started)}"
        # crun makes what is mounted upon; an engine would do so in a copy.
        upon = {self.root / where.lstrip("/") for where in ("/etc/hosts", *volumes)}
        self._mounted |= {one for one in upon if not one.exists()}
        bundle = self.folder / name
        bundle.mkdir(parents=True)
        command = [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])]
        spec = self._spec(command, volumes, set(written or ()), user, tmp)
        (bundle / "config.json").write_text(json.dumps(spec))
        state = self.folder / "state"
        words = _words(state, "run", "--bundle", str(bundle), name)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(Container(name, state, process))
        until(lambda: (state / name / "status").exists() or process.poll() is not None)
        return self.started[-1]

    def stop(self) -> None:
        """Ends those that still run."""
        for one in self.started:
            if one.process.poll() is None:
                _crun(one.folder, "delete", "--force", one.name, check=False, capture_output=True)
            one.process.communicate()
        for path in self._mounted:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def _spec(
        self,
        command: Sequence[str],
        volumes: Mapping[str, Path],
        written: Collection[str],
        user: int | None,
        tmp: str,
    ) -> dict[str, Any]:
        _crun(self.folder, "spec", cwd=self.folder, check=True, capture_output=True)
        spec: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        (self.folder / "config.json").unlink()
        number, _, group = self.config["User"].partition(":")
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": int(number), "gid": int(group)}
            if user is None
            else {"uid": user, "gid": user},
            "args": list(command),
            "env": self.config["Env"],
            "cwd": self.config["WorkingDir"],
            "capabilities": {},
        }
        spec["root"] = {"path": str(self.root), "readonly": True}
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")  # as every engine gives
        spec["mounts"] += [
            {
                "destination": "/tmp",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["noexec", "nosuid", "nodev", "mode=1777", f"size={tmp}"],
            },
            *(
                {
                    "destination": where,
                    "source": str(what),
                    "options": ["rbind", "rw" if where in written else "ro"],
                }
                for where, what in {"/etc/hosts": hosts, **volumes}.items()
            ),
        ]
        spec["linux"]["namespaces"] = [{"type": name} for name in _NAMESPACES]
        return spec


def _words(state: Path, *arguments: str) -> list[str]:
    crun = ["crun", "--cgroup-manager=disabled", f"--root={state}", *arguments]
    return ["unshare", "--mount", "sh", "-c", _GROUPS, "sh", *crun]


def _crun(state: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_words(state, *arguments), **options)
