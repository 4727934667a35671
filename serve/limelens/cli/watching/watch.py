"""`limelens watch`: watches the cameras of a file until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from limelens.cli.options import option
from limelens.cli.terminal.printing import out
from limelens.cli.watching.lines import EventLines, JsonLines, Messages
from limelens.cli.watching.signals import Order, Orders, orders
from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.watch.cameras.config import WatchConfig
    from limelens.watch.cameras.service_manager import ServiceManager
    from limelens.watch.cameras.watcher import Watcher
    from limelens.watch.sinks import Sink

_LOOK_S: Final = 0.5
_RELOAD_S: Final = 5.0
"""Of sinks that are gone after a reload."""


def watch(
    config: Annotated[
        Path,
        typer.Argument(help="The cameras, TOML; docs/watching.md shows one.", show_default=False),
    ],
    as_jsonl: Annotated[
        bool, option("Print each event as a line of JSON, as soon as it comes.", "--jsonl")
    ] = False,
    heartbeat_s: Annotated[
        float | None,
        option(
            "Repeat each camera's state in so many seconds, so that silence means failure; "
            "0: never.",
            min=0.0,
            max=3600.0,
            show_default="the file's",
        ),
    ] = None,
    check: Annotated[
        bool, option("Read the file, say what is wrong with it, and end.", "--check")
    ] = False,
    drain_s: Annotated[
        float, option("Seconds that sinks may take to deliver at the end.", min=0.0)
    ] = 10.0,
) -> None:
    """Watches several cameras until SIGTERM or Ctrl-C, and says alert, clear or unknown of each.

    Cameras and servers that are absent are waited for. SIGHUP reads the file again: cameras that
    are unchanged go on undisturbed, and a file with an error changes nothing. It ends by itself if
    all sources are files.

    Example: limelens watch door.toml --jsonl --heartbeat-s 5
    """
    found = _read(config, heartbeat_s)
    if check:
        out.print(f"{config}: {counted(len(found.camera), 'camera')}, nothing is wrong")
        return
    # Loaded here because gRPC reads its settings from the environment when it is loaded.
    from limelens.watch.cameras.service_manager import ServiceManager
    from limelens.watch.cameras.watcher import Watcher
    from limelens.watch.live import LiveCameras

    say = Messages()
    manager = ServiceManager()
    lines = JsonLines() if as_jsonl else EventLines(out)
    with orders() as ordered:
        watcher = Watcher(LiveCameras(), say, manager.alive)
        try:
            watcher.use(found, {"": lines}, timeout_s=_RELOAD_S)
            manager.ready(_status(found))
            _follow(ordered, watcher, manager, config, heartbeat_s, lines, say)
        finally:
            manager.stopping()
            watcher.stop(drain_s)
    if isinstance(lines, JsonLines) and lines.is_broken:
        raise BrokenPipeError


def _follow(
    ordered: Orders,
    watcher: Watcher,
    manager: ServiceManager,
    path: Path,
    heartbeat_s: float | None,
    lines: Sink,
    say: Messages,
) -> None:
    """Does what is ordered, until that is to stop."""
    while True:
        order = ordered.wait(_LOOK_S)
        if order is Order.STOP or watcher.has_ended:
            return
        if isinstance(lines, JsonLines) and lines.is_broken:
            return
        if order is Order.RELOAD:
            manager.reloading()
            try:
                found = _read(path, heartbeat_s)
                watcher.use(found, {"": lines}, timeout_s=_RELOAD_S)
            except (LimelensError, OSError) as error:
                say(f"not reloaded, watching goes on as before: {error}")
                manager.ready("not reloaded: its file has an error")
            else:
                say(f"reloaded {path}: {_status(found)}")
                manager.ready(_status(found))


def _read(path: Path, heartbeat_s: float | None) -> WatchConfig:
    try:
        from limelens.watch.cameras.config import read_config
    except ImportError as error:
        raise MissingExtraError(
            f"watching cameras needs limelens[watch] ({error}); pip install 'limelens[watch]'"
        ) from error
    config = read_config(path)
    if heartbeat_s is not None:
        config = config.model_copy(update={"heartbeat_s": heartbeat_s})
    return config


def _status(config: WatchConfig) -> str:
    return f"watching {counted(len(config.camera), 'camera')}"
