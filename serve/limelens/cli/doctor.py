"""`limelens doctor`: checks this machine, or the connection to a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from limelens.cli.options import option
from limelens.cli.options.connection_options import NOTHING, Credentials, securely
from limelens.cli.serving import default_models
from limelens.cli.terminal.printing import AsJson, out, print_json
from limelens.serve.addresses import parse_address
from limelens.serve.errors import LimelensError
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.tools.doctor import Check

_STYLES: Final = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
_STATE_WIDTH: Final = max(map(len, _STYLES))
_NAME_WIDTH: Final = 18


@securely
def doctor(
    server: Annotated[
        str | None,
        option("Check this server.", metavar="HOST:PORT", show_default="check this machine"),
    ] = None,
    models: Annotated[
        Path | None,
        option(
            "The model repository of this machine.",
            show_default="./models, else the models that come with limelens",
        ),
    ] = None,
    deep: Annotated[
        bool, option("Check an explanation and the largest message of the server too.", "--deep")
    ] = False,
    health: Annotated[
        bool,
        option("Check only the health of the server, as probes do, without a token.", "--health"),
    ] = False,
    timeout_s: Annotated[float, option("Deadline of each step.", min=0.1)] = 5.0,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Finds what is wrong, and says what to do.

    Without a server it checks this machine: packages, CUDA, and every model by its golden vector.
    With one it checks the connection, certificates, the token and its rights. The exit code is 1
    if something is wrong.

    Example: limelens doctor --server door.example:8500 --ca authority.pem --token-file token
    """
    from limelens.serve.tools.doctor import State, check_machine, check_remote

    if server is None:
        checks = check_machine(models or _default_models())
    else:
        try:
            if not parse_address(server).port:
                raise ValueError(f"{server!r}; expected a port from 1")
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--server") from None
        checks = check_remote(
            server, deep=deep, only_health=health, timeout_s=timeout_s, **vars(credentials)
        )
    done = []
    for check in checks:
        done.append(check)
        if not as_json:
            _print(check)
    num_wrong = sum(one.state is State.WRONG for one in done)
    num_warnings = sum(one.state is State.WARNING for one in done)
    if as_json:
        print_json(
            {
                "server": server,
                "wrong": num_wrong,
                "warnings": num_warnings,
                "checks": [asdict(one) for one in done],
            }
        )
    else:
        out.print(
            f"\n{counted(len(done), 'check')}, {num_wrong} wrong, "
            f"{counted(num_warnings, 'warning')}"
        )
    if num_wrong:
        raise typer.Exit(1)


def _default_models() -> Path | None:
    try:
        return default_models()
    except LimelensError:
        return None


def _print(check: Check) -> None:
    state = f"[{_STYLES[check.state.value]}]{check.state.value:{_STATE_WIDTH}}[/]"
    out.print(f"{state}  {escape(f'{check.name:{_NAME_WIDTH}}')}  {escape(check.found)}")
    if check.advice:
        out.print(f"{'':{_STATE_WIDTH}}  {'':{_NAME_WIDTH}}  -> {escape(check.advice)}")
