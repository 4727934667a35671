"""Builds images of deploy/Dockerfile by `make image` with buildah, where no hub is reached.

The base is made by mmdebstrap in place of the hub's Python image. pip uses the settings of this
machine, which are seen during the build and are no part of the image.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = "localhost/python:3.11-slim-bookworm"
BUILD_TOOLS = ("buildah", "mmdebstrap", "crun", "make", "unshare", "nsenter")
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


@dataclass(frozen=True)
class BuiltImage:
    """One that was built."""

    images: Images
    name: str

    def config(self) -> dict[str, Any]:
        """Its configuration, in docker's form."""
        found = json.loads(self.images.buildah("inspect", "--type", "image", self.name))
        return dict(found["Docker"]["config"])

    def size_bytes(self) -> int:
        """The bytes of its files."""
        (found,) = json.loads(self.images.buildah("images", "--json", self.name))
        number, unit = found["size"].split()
        return int(float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])

    def mount(self) -> Path:
        """A folder with a copy of its files."""
        container = self.images.buildah("from", self.name).strip()
        return Path(self.images.buildah("mount", container).strip())


@dataclass(frozen=True)
class Images:
    """The images of a folder, which holds everything that buildah keeps.

    Attributes:
        folder: The folder; a base image that it already holds is used.
    """

    folder: Path

    def buildah(self, *arguments: object) -> str:
        """Runs a command of buildah and returns what it prints."""
        return self._run("buildah", *arguments)

    def base(self) -> None:
        """Makes Debian with Python, unless it is there."""
        if "python" in self.buildah("images", "--noheading", "--format", "{{.Name}}"):
            return
        files = self.folder / "base.tar"
        sources = [_SOURCES] if _SOURCES.exists() and _SUITE in _SOURCES.read_text() else []
        self._run(
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"),
            *(_SUITE, files, *sources),
        )
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, files, "/")
        files.unlink()
        self.buildah("config", "--env", "LANG=C.UTF-8", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def build(self, name: str, *settings: str) -> BuiltImage:
        """Runs `make image` on that base, with these variables of make."""
        image = BuiltImage(self, f"localhost/{name}")
        options = ["--layers=false", "--build-arg", f"PYTHON_IMAGE={BASE}", *self._pip()]
        self._run(
            *("make", "--no-print-directory", "-C", ROOT, "image", "ENGINE=buildah", *settings),
            *(f"IMAGE={image.name}", f"BUILD_OPTIONS={shlex.join(options)}"),
        )
        return image

    def tidy(self) -> None:
        """Removes the containers, and images that have been built again since."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--prune", "--force")

    def remove(self) -> None:
        """Removes all images and containers."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")

    def _pip(self) -> list[str]:
        """Options that show the build the settings of pip here, and the files that they name."""
        listed = subprocess.run(
            ["pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        lines = (line.split("=", 1) for line in listed.splitlines())
        settings = {key.rpartition(".")[2]: value.strip("'\"") for key, value in lines}
        words = [word for value in settings.values() for word in value.split()]
        # An index of files keeps them beside itself.
        seen = {str(Path(word[7:]).parent) for word in words if word.startswith("file://")}
        seen |= {word for word in words if word.startswith("/") and Path(word).exists()}
        config = self.folder / "pip.conf"
        config.write_text(
            "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        )
        shown = {"/etc/pip.conf": str(config)} | {path: path for path in seen}
        return [f"--volume={here}:{there}:ro" for there, here in shown.items()]

    def _run(self, *command: object) -> str:
        storage = self.folder / "storage.conf"
        if not storage.exists():
            places = {"graphroot": self.folder / "images", "runroot": self.folder / "run"}
            lines = ["[storage]", 'driver = "vfs"', *(f'{k} = "{v}"' for k, v in places.items())]
            storage.write_text("\n".join(lines) + "\n")
        there = {"CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **there},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-4000:]
            raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{said}")
        return done.stdout
