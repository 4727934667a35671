"""Serves, classifies and explains once with the environment that becomes the image.

    python try_server.py ENVIRONMENT

The Dockerfile runs it before the image is made: an environment whose server does not answer becomes
no image, and Python keeps the compiled form of the modules that it imported. Without onnxruntime
(EXTRAS=console) it only asks for the commands.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def main(environment: Path) -> None:
    """Tries the commands, or raises."""
    limelens = environment / "bin" / "limelens"
    subprocess.run([limelens, "doctor", "--help"], check=True, stdout=subprocess.DEVNULL)
    if not list(environment.glob("lib/*/site-packages/onnxruntime")):
        subprocess.run([limelens, "watch", "--help"], check=True, stdout=subprocess.DEVNULL)
        return
    (photo,) = environment.glob("lib/*/site-packages/skimage/data/astronaut.png")
    serve: list[str | Path] = [
        limelens,
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            if " on " not in ready:
                sys.exit(
                    "limelens serve did not start in the image's environment; it says why above"
                )
            at = ["--server", ready.split(" on ")[1].split()[0]]
            drawn = Path(folder, "drawn.png")
            lasso = ["--feature-selection", "lasso_path", "--num-features", "5"]
            for command in (
                ["classify", photo, "--faces", "--draw", drawn],
                ["explain", photo, "--out", drawn, "--num-samples", "50", *lasso],
                ["doctor", "--health"],
            ):
                subprocess.run([limelens, *command, *at], check=True, timeout=300)
            server.terminate()
            if server.wait(60) != 0:
                sys.exit(f"limelens serve ended with {server.returncode} after SIGTERM, not with 0")
        finally:
            server.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
