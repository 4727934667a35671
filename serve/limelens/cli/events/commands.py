"""`limelens events` with its commands."""

from __future__ import annotations

import typer

from limelens.cli.events import listing, showing
from limelens.cli.terminal.helping import Command, Group

events = typer.Typer(
    name="events",
    cls=Group,
    no_args_is_help=True,
    help="The record of what cameras decided: list, show, export, why.",
    epilog="The record is written by limelens watch, where its file has a section [record].",
)
events.command("list", cls=Command)(listing.list_)
events.command("show", cls=Command)(showing.show)
events.command("export", cls=Command)(listing.export)
events.command("why", cls=Command)(showing.why)
