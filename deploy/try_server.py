"""Serves, classifies and explains once, or watches, with the environment that becomes the image.

    python try_server.py ENVIRONMENT

The Dockerfile runs it before the image is made: an environment whose server does not answer, or
that shows no page, becomes no image, and Python keeps the compiled form of what it imported.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOOR = """
[server]
address = "127.0.0.1:9"
[[camera]]
id = "door"
source = "rtsp://127.0.0.1:9/live"
[record]
path = "{folder}/record"
[mqtt]
host = "127.0.0.1"
port = 9
[console]
listen = "127.0.0.1:0"
"""


def main(environment: Path) -> None:
    """Tries what is installed, or raises."""
    limelens = environment / "bin" / "limelens"
    (packages,) = environment.glob("lib/*/site-packages")
    with tempfile.TemporaryDirectory() as folder:
        if (packages / "onnxruntime").is_dir():
            serve(limelens, packages, Path(folder, "drawn.png"))
        if (packages / "starlette").is_dir():
            door = Path(folder, "door.toml")
            door.write_text(DOOR.format(folder=folder))
            with running(limelens, "watch", door, "--jsonl", until="the page is at"):
                pass


def serve(limelens: Path, packages: Path, drawn: Path) -> None:
    """Classifies a photo, and explains it where the extra is installed."""
    photo = packages / "skimage" / "data" / "astronaut.png"
    explains = photo.exists()
    if not explains:
        photo = next(packages.glob("limelens/serve/models/*/*/*.png"))
    commands: list[list[str | Path]] = [
        ["classify", photo, "--faces", "--draw", drawn],
        ["doctor", "--health"],
    ]
    if explains:
        lasso = ["--feature-selection", "lasso_path", "--num-features", "5"]
        commands.append(["explain", photo, "--out", drawn, "--num-samples", "50", *lasso])
    address = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with running(limelens, "serve", *address, until=" on ") as ready:
        at = ["--server", ready.split(" on ")[1].split()[0]]
        for command in commands:
            subprocess.run([limelens, *command, *at], check=True, timeout=300)


@contextmanager
def running(*command: str | Path, until: str) -> Iterator[str]:
    """Runs a command, waits for a line with a text, and ends it as a container is ended."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if until in line:
                    break
            else:
                sys.exit(f"{command[1]} did not start in the image's environment:\n{said}")
            yield line
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                sys.exit(f"{command[1]} ended with {process.returncode} after SIGTERM, not with 0")
        finally:
            process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
