"""`limelens console`: serves the guard's page until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limelens.cli.console.users import users
from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, Credentials, securely
from limelens.cli.options.output_options import writable_folder
from limelens.cli.terminal.helping import Command, Group
from limelens.cli.watching.lines import Messages
from limelens.cli.watching.page_log import page_log
from limelens.cli.watching.signals import Order, orders

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.watch.console.settings import ConsoleSettings
    from limelens.watch.record.record import Record

DEFAULT_LISTEN: Final = "127.0.0.1:8600"
_PAGE: Final = "page"


class _Group(Group):
    """`console`, with its options, unless the next word is one of its commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the word in that a user does not write."""
        is_command = bool(args) and args[0] in self.commands and args[0] != _PAGE
        return super().parse_args(ctx, args if is_command else [_PAGE, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command; that of the page has no name of its own in messages and help."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _PAGE else name, command, rest


console = typer.Typer(
    name="console", cls=_Group, help="Serves the guard's page: cameras, events, why, health."
)
console.add_typer(users)


@console.command(_PAGE, cls=Command, hidden=True)
@securely
def page(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="Watch the cameras of this file, as limelens watch does, and show them. Its "
            "[console] says what the options below say.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        Path | None, option("Show the events of this record.", metavar="FOLDER")
    ] = None,
    server: Annotated[
        str | None,
        option("Try images on this server.", metavar="HOST:PORT"),
    ] = None,
    listen: Annotated[
        str | None,
        option(
            "Where the page is served; port 0 takes a free one.",
            metavar="HOST:PORT",
            show_default=f"as CONFIG says, else {DEFAULT_LISTEN}",
        ),
    ] = None,
    user_file: Annotated[
        Path | None,
        option(
            "Who may log in: the file that `limelens console users add` writes. Needed beyond this "
            "machine.",
            "--users",
            metavar="FILE",
        ),
    ] = None,
    tls_cert: Annotated[Path | None, option("The page's certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, option("Its private key, PEM.")] = None,
    insecure: Annotated[
        bool,
        option(
            "Allow plaintext beyond this machine, for a proxy in front that ends TLS.",
            "--insecure",
        ),
    ] = False,
    host: Annotated[
        list[str] | None,
        option(
            "A further name by which browsers may ask for the page. May be repeated.",
            metavar="NAME",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        option(
            "The address of a proxy in front, which says whom it asks for. May be repeated.",
            metavar="ADDRESS",
        ),
    ] = None,
    review: Annotated[
        Path | None,
        option(
            "Where frames with a corrected label go; limelens train reads it.",
            metavar="FOLDER",
            callback=writable_folder,
        ),
    ] = None,
    credentials: Credentials = NOTHING,
) -> None:
    """Serves the guard's page until SIGTERM or Ctrl-C.

    On this machine it needs no login. Beyond it needs users and TLS: `limelens console users add
    NAME --role viewer` adds one.

    Example: limelens console door.toml
    """
    own = (record, server, user_file, tls_cert, tls_key, host, trusted_proxy, review)
    if config is not None:
        if insecure or any(one is not None for one in own):
            raise typer.BadParameter(
                "CONFIG says what is shown and to whom; beside it give no option but --listen"
            )
        _watch(config, listen)
        return
    if record is None and server is None:
        raise typer.BadParameter(
            "there is nothing to show; give CONFIG, --record FOLDER or --server HOST:PORT"
        )
    from limelens.watch.console.settings import ConsoleSettings

    settings = ConsoleSettings(
        listen=listen or DEFAULT_LISTEN,
        users=user_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        hosts=tuple(host or ()),
        trusted_proxies=tuple(trusted_proxy or ()),
        review=review,
    )
    _serve(settings, record, server, credentials)


def _watch(config: Path, listen: str | None) -> None:
    from limelens.cli.watching.watch import watch

    if listen is None:
        from limelens.watch.cameras.config import read_config

        listen = DEFAULT_LISTEN if read_config(config).console is None else None
    watch(config, console=listen)


def _serve(
    settings: ConsoleSettings, record: Path | None, server: str | None, credentials: Credentials
) -> None:
    from limelens.watch import console as guards

    opened = _record(record)
    say = Messages()
    with page_log(say), orders() as ordered:
        running = guards.serve(settings, None, opened, _client(server, credentials))
        try:
            print(f"the page is at {running.address}", flush=True)
            while ordered.wait(3600) is not Order.STOP:
                pass  # SIGHUP has nothing to read anew
        finally:
            running.close()
            if opened is not None:
                opened.close()
            say.flush()


def _record(folder: Path | None) -> Record | None:
    if folder is None:
        return None
    from limelens.watch.record.record import Record

    return Record(folder)


def _client(server: str | None, credentials: Credentials) -> Callable[[], Client] | None:
    if server is None:
        return None
    from limelens.serve.client import Client

    def connect() -> Client:
        return Client(server, **vars(credentials))

    connect().close()  # an unusable address or certificate fails before anything begins
    return connect
