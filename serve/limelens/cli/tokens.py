"""`limelens token`: adds a client to the tokens file of a server."""

from __future__ import annotations

import datetime
import re
import stat
from pathlib import Path
from typing import Annotated, Final

import typer

from limelens.cli.options import option
from limelens.cli.terminal.printing import AsJson, err, print_json
from limelens.serve.access.caller import ClientLimits
from limelens.serve.access.rights import read_rights
from limelens.serve.access.tokens import NAME_PATTERN, append_entry, entry_text, new_token

_DURATION: Final = re.compile(r"(\d{1,6})([hd])")
_HOURS: Final = {"h": 1, "d": 24}


def token(
    name: Annotated[str, typer.Argument(help="Name of the client, in the log and in metrics.")],
    rights: Annotated[
        str, option("What it may do: classify, embed, explain, models, admin.", metavar="RIGHT,…")
    ],
    expires: Annotated[
        str | None, option("When it expires.", metavar="90d|12h|DATE", show_default="never")
    ] = None,
    rate_limit: Annotated[
        str | None,
        option(
            "Its rate limit, such as 100/second.", metavar="N/TIME", show_default="the server's"
        ),
    ] = None,
    max_calls: Annotated[
        int | None, option("Its calls and streams at a time.", min=1, show_default="the server's")
    ] = None,
    file: Annotated[Path, option("The server's --tokens; made if missing.")] = Path("tokens.toml"),
    as_json: AsJson = False,
) -> None:
    """Makes a token, prints it once and adds its hash to a file.

    A server with this file as `--tokens` accepts the token within a second or so. Callers send it
    as the metadata `authorization: Bearer TOKEN`. To revoke it, delete its entry.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(
            f"{name!r}; expected 1 to 64 letters, digits and . _ @ -, beginning with a letter or "
            "digit",
            param_hint="NAME",
        )
    try:
        granted = read_rights(word.strip() for word in rights.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rights") from None
    until = _until(expires)
    if rate_limit is not None:
        from limelens.serve.access.limiting import read_rate

        read_rate(rate_limit)
    made = new_token()
    append_entry(file, entry_text(name, made, granted, until, ClientLimits(rate_limit, max_calls)))
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        err.print(
            f"{file} is accessible to users other than its owner; chmod 600 {file}", markup=False
        )
    if as_json:
        print_json(
            {
                "name": name,
                "token": made,
                "rights": sorted(granted),
                "expires": until.isoformat() if until is not None else None,
                "file": str(file),
            }
        )
        return
    print(made)
    err.print(f"{name} is in {file}. The token is not kept anywhere: store it now.", markup=False)


def _until(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    duration = _DURATION.fullmatch(text)
    try:
        if duration is not None:
            until = now + datetime.timedelta(hours=int(duration[1]) * _HOURS[duration[2]])
        else:
            until = datetime.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r}; expected such as 90d, 12h or 2027-01-31", param_hint="--expires"
        ) from None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    if until <= now:
        raise typer.BadParameter(f"{text!r} is in the past", param_hint="--expires")
    return until
