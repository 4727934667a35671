"""`limelens watch`: watches the cameras of a file until it is told to stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limelens.cli.options import option
from limelens.cli.terminal.printing import err, out
from limelens.cli.watching.lines import EventLines, JsonLines, Messages
from limelens.cli.watching.page_log import page_log
from limelens.cli.watching.signals import Order, orders
from limelens.cli.watching.table import LiveTable
from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.serve.wording import counted, first_line

if TYPE_CHECKING:
    from limelens.watch.cameras.config import WatchConfig
    from limelens.watch.cameras.session import Session

_LOOK_S: Final = 0.5


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
    console: Annotated[
        str | None,
        option(
            "Serve the guard's page there, on this machine alone unless the file's [console] says "
            "who may log in.",
            metavar="HOST:PORT",
            show_default="as the file says",
        ),
    ] = None,
    check: Annotated[
        bool,
        option("Say what is wrong with the file, or missing that it names, and end.", "--check"),
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
    found = _read(config, heartbeat_s, console)
    if check:
        _check(config, found)
        return
    # Loaded here because gRPC reads its settings from the environment when it is loaded.
    from limelens.serve.service_manager import ServiceManager
    from limelens.watch.cameras.session import Session

    manager = ServiceManager()
    say = Messages()
    lines = JsonLines() if as_jsonl else EventLines(out)
    session = Session(lines, say, manager.alive, prints_frames=as_jsonl)
    try:
        with (
            orders() as ordered,
            page_log(say),
            _drawn(session, say, as_jsonl=as_jsonl) as draw,
        ):
            session.use(found)
            manager.ready(_status(found))
            while not session.has_ended and not lines.is_broken:
                order = ordered.wait(_LOOK_S)
                if order is Order.STOP:
                    break
                if order is Order.RELOAD:
                    manager.reloading()
                    manager.ready(
                        _reload(session, lambda: _read(config, heartbeat_s, console), say)
                    )
                draw()
            manager.stopping()
            session.close(drain_s)
            is_said = say.flush()
    except BaseException:
        session.close(0.0)
        raise
    if not is_said:
        # The interpreter would wait for whoever does not read what is said.
        os._exit(1 if lines.is_broken else 0)
    if lines.is_broken:
        raise BrokenPipeError


def _check(path: Path, config: WatchConfig) -> None:
    from limelens.watch.cameras.checking import missing

    if wrong := list(missing(config)):
        raise LimelensError("\n".join(f"{path}: {reason}" for reason in wrong))
    out.print(f"{path}: {counted(len(config.camera), 'camera')}, nothing is wrong")


def _reload(session: Session, read: Callable[[], WatchConfig], say: Messages) -> str:
    """Watches what the file says now; returns the status."""
    try:
        found = read()
        session.use(found)
    except (LimelensError, OSError) as error:
        say(f"not reloaded, watching goes on as before: {error}")
        return f"not reloaded: {first_line(error)}"
    say(f"reloaded: {_status(found)}")
    return _status(found)


@contextmanager
def _drawn(session: Session, say: Messages, *, as_jsonl: bool) -> Iterator[Callable[[], None]]:
    """On a terminal, a live table; gives the function that draws it anew."""
    if as_jsonl or not out.is_terminal:
        yield lambda: None
        return
    with LiveTable(out, session.live) as table:
        say.console = out if err.is_terminal else err
        try:
            yield lambda: table.update(session.problems(), session.address)
        finally:
            say.flush()
            say.console = err


def _read(path: Path, heartbeat_s: float | None, console: str | None) -> WatchConfig:
    try:
        from limelens.watch.cameras.config import read_config
        from limelens.watch.console.settings import ConsoleSettings
    except ImportError as error:
        raise MissingExtraError(
            f"watching cameras needs limelens[watch] ({error}); pip install 'limelens[watch]'"
        ) from error
    config = read_config(path)
    changes: dict[str, Any] = {} if heartbeat_s is None else {"heartbeat_s": heartbeat_s}
    if console is not None:
        before = config.console or ConsoleSettings.model_validate({})
        changes["console"] = before.model_copy(update={"listen": console})
    return config.model_copy(update=changes)


def _status(config: WatchConfig) -> str:
    return f"watching {counted(len(config.camera), 'camera')}"
