"""How answers look on a terminal, and how they look as JSON."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")
]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Writes one document to stdout."""
    # In ASCII: valid whatever the terminal's encoding and whatever bytes a file's name has.
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
