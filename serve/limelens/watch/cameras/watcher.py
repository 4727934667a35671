"""Watches several cameras: starts, exchanges and stops their threads, and keeps the time for them.

It knows cameras, and neither files of settings nor signals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from limelens.serve.client import Client
from limelens.serve.tools.camera import SourceError
from limelens.serve.tools.camera.places import place
from limelens.serve.tools.camera.standstill import Standstill
from limelens.serve.wording import first_line
from limelens.watch.cameras.camera_thread import CameraThread
from limelens.watch.cameras.config import WatchConfig
from limelens.watch.cameras.connections import Connections
from limelens.watch.cameras.delivery import Delivery, Plan
from limelens.watch.cameras.explanations import Explained, explanation_of
from limelens.watch.cameras.model_server import ModelServers
from limelens.watch.cameras.settings import CameraSettings, ServerSettings
from limelens.watch.cameras.status import CameraStatus
from limelens.watch.event import Event
from limelens.watch.live import LiveCameras

_LONGEST_TICK_S: Final = 1.0
_SHORTEST_TICK_S: Final = 0.02
_STOPPED: Final = "watching was ended"
_log: Final = logging.getLogger(__name__)
_Key = tuple[CameraSettings, ServerSettings]


class Watcher:
    """The cameras of one configuration, which may be exchanged while they are watched.

    Args:
        live: Where it is said how each camera is.
        say: Called with sentences for people.
        beat: Called about once a second while every camera's thread is alive.
    """

    def __init__(
        self,
        live: LiveCameras,
        say: Callable[[str], object],
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self._live = live
        self._say = say
        self._beat = beat
        self._delivery = Delivery(say)
        self._connections = Connections()
        self._models = ModelServers(say)
        self._drawing = ThreadPoolExecutor(1, "limelens-overlays")
        self._cameras: dict[_Key, CameraThread] = {}
        self._heartbeat_s = 0.0
        self._heartbeat_at = 0.0
        self._beat_at = 0.0
        self._standstill: Standstill | None = None
        self._tick_s = _LONGEST_TICK_S
        self._stopped = threading.Event()
        self._pulse = threading.Thread(target=self._keep_time, name="limelens-time", daemon=True)

    @property
    def has_ended(self) -> bool:
        """Whether every camera was a file, and all of them were seen."""
        return all(camera.has_ended for camera in self._cameras.values())

    @property
    def is_alive(self) -> bool:
        """Whether every camera's thread is."""
        return all(camera.is_alive for camera in self._cameras.values())

    @property
    def problems(self) -> list[str]:
        """What keeps sinks from delivering now."""
        return self._delivery.problems

    def use(self, config: WatchConfig, sinks: Mapping[str, Plan], *, timeout_s: float) -> None:
        """Watches the cameras of a configuration; those that are unchanged go on undisturbed.

        Args:
            config: The configuration.
            sinks: Where events go, by name.
            timeout_s: How long sinks that are gone may take to deliver what they have.

        Raises:
            LimelensError: A server's credentials or a sink cannot be used; all is as before then.
        """
        try:
            for camera in config.camera:
                server = self.server_of(camera, config.server)
                if camera.model is None:
                    self._connections.client(server)
            are_new = self._delivery.use(sinks, timeout_s)
        except Exception:
            self._models.keep_only(_models_of(key[0] for key in self._cameras))
            raise
        if are_new:
            # A new sink knows no camera yet, and those that stay may not change for long.
            for thread in self._cameras.values():
                thread.status.heartbeat()
        wanted = [(camera, self.server_of(camera, config.server)) for camera in config.camera]
        before = self._cameras
        gone = [camera for key, camera in before.items() if key not in wanted]
        _stop(gone)
        remaining = {camera.id for camera in config.camera}
        for thread in gone:
            if thread.settings.id not in remaining:
                thread.status.remove()
        new = {key: self._camera(*key) for key in wanted if key not in before}
        self._heartbeat_s = config.heartbeat_s
        ages = [camera.max_decision_age_s / 2 for camera in config.camera]
        self._tick_s = min(_LONGEST_TICK_S, *ages)
        for thread in new.values():
            thread.start(on=_is_on(thread.settings, datetime.now()))
        self._cameras = {key: before.get(key) or new[key] for key in wanted}
        self._connections.keep_only(server for _, server in wanted)
        self._models.keep_only(_models_of(config.camera))
        if self._pulse.ident is None:
            self._pulse.start()

    def stop(self, timeout_s: float) -> None:
        """Ends watching: each camera says that its state is unknown now, and sinks deliver."""
        self._stopped.set()
        _stop(list(self._cameras.values()))
        if self._pulse.ident is not None:
            self._pulse.join()
        self._drawing.shutdown()
        self._delivery.use({}, timeout_s)
        self._connections.keep_only(())
        self._models.keep_only(())

    def _camera(self, settings: CameraSettings, server: ServerSettings) -> CameraThread:
        def deliver(event: Event) -> None:
            self._delivery.put(event, settings.sinks)

        def explain(explained: Explained) -> None:
            with suppress(RuntimeError):  # watching ended meanwhile
                self._drawing.submit(self._explain, settings, explained)

        def say(message: str) -> None:
            self._say(f"{settings.id}: {message}")

        status = CameraStatus(settings, _shown(settings), self._live, deliver, explain, self._say)

        def connect(is_stopped: Callable[[], bool]) -> Client:
            if settings.model is not None:
                self._models.of(settings.model).wait_ready(is_stopped)
            return self._connections.client(server)

        return CameraThread(settings, status, connect, say, server)

    def server_of(self, camera: CameraSettings, common: ServerSettings) -> ServerSettings:
        """How the server of a camera is reached; that of a model file is started."""
        if camera.model is not None:
            return self._models.of(camera.model).settings
        return _server_of(camera, common)

    def _explain(self, settings: CameraSettings, explained: Explained) -> None:
        try:
            self._delivery.put(explanation_of(explained), settings.sinks)
        except Exception as error:
            self._say(f"{settings.id}: its explanation cannot be drawn: {first_line(error)}")

    def _keep_time(self) -> None:
        wait_s = 0.0
        while not self._stopped.wait(max(_SHORTEST_TICK_S, wait_s)):
            try:
                wait_s = self._tick()
            except Exception:
                # Without this thread decisions would never expire.
                _log.exception("the cameras' clock failed")
                wait_s = _LONGEST_TICK_S

    def _tick(self) -> float:
        """Does what is due; returns the seconds until something is again."""
        cameras = list(self._cameras.values())
        self._look_for_a_gap(cameras)
        now = time.monotonic()
        wall = datetime.now()
        for camera in cameras:
            camera.switch(on=_is_on(camera.settings, wall))
            camera.status.tick(now)
        if self._heartbeat_s and now >= self._heartbeat_at:
            self._heartbeat_at = now + self._heartbeat_s
            for camera in cameras:
                camera.status.heartbeat()
        if now >= self._beat_at and self.is_alive:
            self._beat_at = now + _LONGEST_TICK_S
            self._beat()
        due = [at for camera in cameras if (at := camera.status.expires_at()) is not None]
        if self._heartbeat_s:
            due.append(self._heartbeat_at)
        return min([self._tick_s, *(at - time.monotonic() for at in due)])

    def _look_for_a_gap(self, cameras: Iterable[CameraThread]) -> None:
        """Opens the cameras anew if this process was stopped, or the machine slept."""
        self._standstill = self._standstill or Standstill()
        if gap_s := self._standstill.look():
            for camera in cameras:
                camera.reopen(f"watching stood still for {gap_s:.0f} s; it is opened again")


def _stop(cameras: list[CameraThread]) -> None:
    for camera in cameras:
        camera.stop()
        # At once: what was said last must not stand while another one hangs.
        camera.status.end(_STOPPED)
    for camera in cameras:
        camera.join()


def _models_of(cameras: Iterable[CameraSettings]) -> list[Path]:
    return [camera.model for camera in cameras if camera.model is not None]


def _is_on(settings: CameraSettings, at: datetime) -> bool:
    return settings.schedule is None or settings.schedule.is_on(at)


def _server_of(camera: CameraSettings, common: ServerSettings) -> ServerSettings:
    if camera.server is None:
        return common
    return common.model_copy(update={"address": camera.server})


def _shown(settings: CameraSettings) -> str:
    """Where a camera's frames come from, without secrets."""
    try:
        return place(settings.source.get_secret_value()).name
    except SourceError:
        return settings.source.get_secret_value().partition("://")[0]
