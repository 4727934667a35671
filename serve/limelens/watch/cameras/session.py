"""A configuration in use: its cameras, its sinks and its page, which may all be exchanged.

It puts the rooms together, and knows neither files nor signals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.client import Client
from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.watch.cameras.config import WatchConfig
from limelens.watch.cameras.connections import connect
from limelens.watch.cameras.delivery import TERMINAL, Plan
from limelens.watch.cameras.watcher import Watcher
from limelens.watch.event import EventType
from limelens.watch.live import LiveCameras
from limelens.watch.record.settings import RecordSettings
from limelens.watch.sinks import Sink
from limelens.watch.sinks.jsonl import JsonlSink
from limelens.watch.sinks.mqtt import MqttSink
from limelens.watch.sinks.webhook import WebhookSink

if TYPE_CHECKING:
    from limelens.watch.console.serving import Console
    from limelens.watch.record import Record

RELOAD_S: Final = 5.0
"""How long sinks that are gone after a reload may take to deliver what they have."""


class Session:
    """What is watched, from the first `use` until `close`.

    Args:
        lines: The sink of the terminal.
        say: Called with sentences for people.
        beat: Called about once a second while every camera's thread is alive.
        prints_frames: Whether the terminal wants events of single frames.
    """

    def __init__(
        self,
        lines: Sink,
        say: Callable[[str], object],
        beat: Callable[[], object],
        *,
        prints_frames: bool,
    ) -> None:
        self.live = LiveCameras()
        self._lines = lines
        self._prints_frames = prints_frames
        self._say = say
        self._watcher = Watcher(self.live, say, beat)
        self._console: Console | None = None
        self._shown: Any = None
        self._page_problem = ""
        self._is_used = False
        self._record: Record | None = None

    @property
    def has_ended(self) -> bool:
        """Whether every source was a file, all of them were seen, and no page shows them."""
        return self._console is None and self._watcher.has_ended

    @property
    def address(self) -> str:
        """Where the page is; empty if there is none."""
        return "" if self._console is None else self._console.address

    def problems(self) -> Sequence[str]:
        """What keeps sinks from delivering now."""
        page = [self._page_problem] if self._page_problem else []
        return [*self._watcher.problems, *page]

    def use(self, config: WatchConfig) -> None:
        """Watches what a configuration says; what is unchanged goes on undisturbed.

        Raises:
            LimelensError: Something of it cannot be used; all is as before then. Of the page only
                if it is the first: later it is said, and watching goes on.
        """
        self._watcher.use(config, self._plans(config), timeout_s=RELOAD_S)
        self._page_problem = ""
        try:
            self._show(config)
        except LimelensError as error:
            if not self._is_used:
                raise
            self._page_problem = f"the page: {error}"
            self._say(self._page_problem)
        self._is_used = True

    def close(self, drain_s: float) -> None:
        """Ends watching; sinks may take some seconds to deliver what they have."""
        self._close_page()
        self._watcher.stop(drain_s)

    def _plans(self, config: WatchConfig) -> dict[str, Plan]:
        plans = {TERMINAL: Plan(None, lambda: self._lines, self._prints_frames)}
        if (jsonl := config.jsonl) is not None:
            takes_frames = EventType.FRAME in jsonl.types
            plans["jsonl"] = Plan(jsonl, lambda: JsonlSink(jsonl), takes_frames)
        for webhook in config.webhook:
            plans[webhook.name] = Plan(
                webhook, functools.partial(WebhookSink, webhook), takes_frames=False
            )
        if (mqtt := config.mqtt) is not None:
            # Named at once, so that no state of an earlier run counts until the first event comes.
            named = [one.id for one in config.camera if one.sinks is None or "mqtt" in one.sinks]
            plans["mqtt"] = Plan(
                mqtt, lambda: MqttSink(mqtt, named, self._is_stale), takes_frames=False
            )
        if config.record is not None:
            make = functools.partial(self._recorder, config)
            plans["record"] = Plan(config.record, make, takes_frames=False)
        return plans

    def _is_stale(self, camera_id: str) -> bool:
        camera = self.live.get(camera_id)
        return camera is not None and camera.is_stale

    def _recorder(self, config: WatchConfig) -> Sink:
        from limelens.watch.record.writer import RecordWriter

        assert config.record is not None
        return RecordWriter(config.record, blur=functools.partial(self._blur, config))

    def _blur(self, config: WatchConfig, pixels: Any) -> Any:
        from limelens.serve.tools.faces.face_blurrer import FaceBlurrer

        with self._client(config) as client:
            return FaceBlurrer(client, config.camera[0].model_name).blur(pixels)

    def _client(self, config: WatchConfig) -> Client:
        """A client of the first camera's server, for a single use."""
        return connect(self._watcher.server_of(config.camera[0], config.server))

    def _show(self, config: WatchConfig) -> None:
        """Serves the page that the configuration asks for."""
        server = self._watcher.server_of(config.camera[0], config.server)
        wanted = None if config.console is None else (config.console, config.record, server)
        if wanted == self._shown:
            return
        self._close_page()
        if config.console is None:
            return
        from limelens.watch import console

        self._record = None if config.record is None else _opened(config.record, self._say)
        try:
            self._console = console.serve(
                config.console,
                self.live,
                self._record,
                functools.partial(self._client, config),
                self.problems,
            )
        except ImportError as error:
            raise MissingExtraError(
                f"the guard's page needs limelens[console] ({error}); "
                "pip install 'limelens[console]'"
            ) from error
        self._shown = wanted
        self._say(f"the page is at {self._console.address}")

    def _close_page(self) -> None:
        if self._console is not None:
            self._console.close()
        if self._record is not None:
            self._record.close()
        self._console = self._record = self._shown = None


def _opened(settings: RecordSettings, say: Callable[[str], object]) -> Record | None:
    """The record to read, made if it is not there yet; None if it cannot be used."""
    from limelens.watch.record import Record
    from limelens.watch.record.database import folder_of, open_to_write

    try:
        open_to_write(folder_of(settings.path), create=True).close()
        return Record(settings.path)
    except (LimelensError, OSError) as error:
        say(f"the page shows no events: {error}")
        return None
