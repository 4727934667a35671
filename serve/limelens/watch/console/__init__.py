"""The guard's page.

    access/         users, passwords, sessions, lockout, login, what an operator alone may do
    protection.py   before every page: hosts, headers, CSRF, login
    app.py          puts the pages together: a page is a module with `routes(state)`
    state.py        what the pages share
    rendering.py    fills `templates/` in the reader's language
    language.py     reads `sentences/`
    cameras/        the tiles: states, live images
    health.py       the machinery
    events.py, why.py    the record's events, one of them
    trying/         images to try
    serving.py      uvicorn, TLS

A new page adds its routes and its place in the navigation to `app.py`. It renders by
`state.pages.render(request, "events.html", …)`; the template extends `base.html` and takes every
word from `say(KEY)`. Scripts take theirs from the table `[script]` by `words.js`. A form
has `{{ parts.csrf() }}`, and `post.js` sends anything else that changes something. What only
operators may do is wrapped by `operators_only`, and `audit(request, …)` logs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from limelens.watch.console.settings import ConsoleSettings

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.watch.console.serving import Console
    from limelens.watch.live import LiveCameras
    from limelens.watch.record import Record


def serve(
    settings: ConsoleSettings,
    live: LiveCameras | None,
    record: Record | None = None,
    client: Callable[[], Client] | None = None,
    problems: Callable[[], Sequence[str]] = tuple,
) -> Console:
    """Serves the page in a thread of its own.

    Args:
        settings: Where, and to whom.
        live: The cameras; None shows none.
        record: The record of events; None shows none.
        client: Opens a client of the server, which is closed after use; None: nothing to try.
        problems: What is wrong with sinks and the record now, for people; called by threads.

    Returns:
        The page, with `address` and `close()`.

    Raises:
        ListenError: The address cannot be used, or not without login and TLS.
        AccessPolicyError: The file of users or the certificate cannot be used.
    """
    from limelens.watch.console.serving import Console

    return Console(settings, live, record, client, problems)
