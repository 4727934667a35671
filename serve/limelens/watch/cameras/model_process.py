"""The private server of one model: a process that ends with the one that started it.

    python -m limelens.watch.cameras.model_process FOLDER

It serves the model repository FOLDER/models on FOLDER/socket, a socket of this machine, until its
standard input ends, and then removes FOLDER.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Final

from limelens.serve.errors import LimelensError
from limelens.serve.observing.logs import set_up_logs
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.run_server import serve

_GRACE_S: Final = 0.5
"""Nobody waits for explanations that still run."""


def main() -> None:
    """Serves, and exits with 1 and a line on stderr if it cannot."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    set_up_logs(logging.WARNING)
    config = ServerConfig(
        models=folder / "models",
        listen=f"unix:{folder / 'socket'}",
        reflection=False,
        grace_s=_GRACE_S,
    )
    try:
        code = serve(config, lambda line: print(line, flush=True))
    except (LimelensError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        code = 1
    # Python's own exit would wait for models that run.
    os._exit(code)


def _end_with_parent(folder: Path) -> None:
    # Nothing is ever written there: it ends when the parent does, however that happens.
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
