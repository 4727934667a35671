"""`limelens console users`: who may see the guard's page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from limelens.cli.options import option
from limelens.cli.terminal.helping import Command, Group
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.errors import AccessPolicyError, LimelensError
from limelens.serve.wording import listed

if TYPE_CHECKING:
    from limelens.watch.console.access.users import User

_File = Annotated[Path, option("The file of users; made if missing.")]
_Name = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]

users = typer.Typer(
    name="users", cls=Group, no_args_is_help=True, help="Adds, lists and removes users of the page."
)


@users.command(cls=Command)
def add(
    name: _Name,
    role: Annotated[
        Literal["viewer", "operator"],
        option("A viewer sees everything; an operator also corrects labels and tries images."),
    ],
    file: _File = Path("users.toml"),
    password_file: Annotated[
        Path | None,
        option(
            "Read the password from this file's only line instead of asking for it.",
            metavar="FILE",
        ),
    ] = None,
    replace: Annotated[
        bool,
        option(
            "Give a user who exists another password and role, which ends their logins.",
            "--replace",
        ),
    ] = False,
) -> None:
    """Adds a user; only the password's hash is kept.

    A running page reads the file again by itself. The hash is argon2id's, and takes about a
    quarter of a second here: so does each guess.
    """
    from limelens.watch.console.access.passwords import hash_password, refusal
    from limelens.watch.console.access.users import NAME_PATTERN, Role, User, changing_users

    if not re.fullmatch(NAME_PATTERN, name):
        raise typer.BadParameter(
            f"{name!r}; expected 1 to 64 letters, digits and . _ @ -, beginning with a letter or "
            "digit",
            param_hint="NAME",
        )
    password = _password(name, password_file)
    reason = refusal(password)
    if reason:
        raise LimelensError(f"the password has {reason}")
    made = User(name, Role(role), hash_password(password))
    with changing_users(file) as found:
        if name in found and not replace:
            raise LimelensError(f"{name} is in {file} already; --replace gives another password")
        found[name] = made
    err.print(f"{name}, {role}, is in {file}", markup=False)


@users.command(cls=Command)
def remove(name: _Name, file: _File = Path("users.toml")) -> None:
    """Removes a user, which ends their logins."""
    from limelens.watch.console.access.users import changing_users

    with changing_users(file) as found:
        if found.pop(name, None) is None:
            raise LimelensError(f"there is no {name} in {file}; {_known(found)}")
    err.print(f"{name} is no longer in {file}", markup=False)


@users.command("list", cls=Command)
def list_(file: _File = Path("users.toml"), as_json: AsJson = False) -> None:
    """Lists the users and their roles."""
    from limelens.watch.console.access.users import read_users

    found = read_users(file)
    if as_json:
        print_json({"users": [{"name": user.name, "role": user.role} for user in found.values()]})
        return
    for user in found.values():
        out.print(f"{user.name}  {user.role}", markup=False, highlight=False)


def _known(users: dict[str, User]) -> str:
    return f"there are {listed(list(users))}" if users else "there is nobody"


def _password(name: str, file: Path | None) -> str:
    """The password that was typed twice, or the only line of a file."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise AccessPolicyError(f"{file}: {why}; expected a file with a password") from error
        if len(lines) != 1:
            raise AccessPolicyError(f"{file} has {len(lines)} lines; expected the password alone")
        return lines[0]
    if not sys.stdin.isatty():
        raise LimelensError(
            "nobody is there to type the password; name a file that holds it (--password-file)"
        )
    typed: str = typer.prompt(
        f"Password for {name}", hide_input=True, confirmation_prompt="Again", err=True
    )
    return typed
