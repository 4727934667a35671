"""`limelens bulk` with its commands."""

from __future__ import annotations

import typer

from limelens.cli.bulk import classifying, embedding, explaining
from limelens.cli.terminal.helping import Command, Group

bulk = typer.Typer(
    name="bulk",
    cls=Group,
    no_args_is_help=True,
    help="Whole collections of images, into Parquet: classify, explain, embed.",
    epilog="INPUT is a folder of images, Parquet or .tar shards. The same command goes on where "
    "one was stopped or killed.",
)
bulk.command("classify", cls=Command)(classifying.classify)
bulk.command("explain", cls=Command)(explaining.explain)
bulk.command("embed", cls=Command)(embedding.embed)
