"""Watches one camera in a thread of its own, and begins again whatever happens to it.

It opens the source and the stream, waits for both if they are absent, and tells `CameraStatus`
what happens. It knows no other camera.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from limelens.serve.client import Client
from limelens.serve.client.results import ModelRef
from limelens.serve.decisions.camera_state import UnknownReason
from limelens.serve.errors import (
    ExpiredError,
    LimelensError,
    MissingExtraError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.tools.camera import LossReason, Source, SourceError, open_source, watch
from limelens.serve.wording import first_line
from limelens.watch.cameras.aside import aside
from limelens.watch.cameras.model_server import ModelServerError
from limelens.watch.cameras.server_loss import why_lost
from limelens.watch.cameras.settings import CameraSettings, ServerSettings
from limelens.watch.cameras.status import CameraStatus, Part
from limelens.watch.secret import SecretError, read_secret

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LONG_ENOUGH_S: Final = 60.0
"""After so long without an error the next pause is short again."""
_JOIN_S: Final = 5.0
_EXPLAINED_AS: Final = {"renderings": ["segments", "overlay"]}
_log: Final = logging.getLogger(__name__)


class CameraThread:
    """One camera that is watched, from `start` until `stop`.

    Args:
        settings: The camera's.
        status: Is told what happens.
        connect: Gives the client of the camera's server; it may raise a `LimelensError`. It is
            given a function that says whether the camera is stopped.
        say: Called with sentences for people.
        server: How that server is reached.
    """

    def __init__(
        self,
        settings: CameraSettings,
        status: CameraStatus,
        connect: Callable[[Callable[[], bool]], Client],
        say: Callable[[str], object],
        server: ServerSettings,
    ) -> None:
        self.settings = settings
        self.status = status
        self._connect = connect
        self._say = say
        self._server = server
        self._model: ModelRef | None = None
        self._changed = threading.Condition()
        self._is_on = True
        self._is_stopped = False
        self._source: Source | None = None
        self.has_ended = False
        """Whether its source was a file, and all of it was seen."""
        self._thread = threading.Thread(
            target=self._run, name=f"limelens-{settings.id}", daemon=True
        )

    @property
    def is_alive(self) -> bool:
        """Whether it watches, waits, or has nothing left to do."""
        return self._thread.is_alive() or self.has_ended

    def start(self, *, on: bool) -> None:
        """Begins; `on` is as for `switch`."""
        self.status.start()
        self.switch(on=on)
        self._thread.start()

    def switch(self, *, on: bool) -> None:
        """Watches, or does not, as the schedule says."""
        with self._changed:
            if on is self._is_on or self.has_ended:
                return
            self._is_on = on
            source = self._source
            self._changed.notify_all()
        if on:
            self.status.on()
        else:
            self.status.off(_until(self.settings))
            if source is not None:
                source.stop()

    def reopen(self, why: str) -> None:
        """Opens a live source anew: what waits there is old, and must not count as taken now."""
        with self._changed:
            source = self._source
        if source is not None and source.is_live:
            source.stop()
            self.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, why)

    def stop(self) -> None:
        """Lets it end; `join` waits for that."""
        with self._changed:
            self._is_stopped = True
            source = self._source
            self._changed.notify_all()
        if source is not None:
            source.stop()

    def join(self) -> None:
        """Waits until it has ended; a source that hangs is left alone."""
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._wait(lambda: self._is_on):
            began = time.monotonic()
            try:
                is_over = self._watch()
            except Exception as error:
                self._failed(error)
            else:
                if is_over:
                    self.has_ended = True
                    self.status.off("the file is at its end")
                    return
                pause_s = 0.0
            if time.monotonic() - began >= _LONG_ENOUGH_S:
                pause_s = 0.0
            self._wait(lambda: not self._is_on, pause_s)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _watch(self) -> bool:
        """Watches until it is stopped or switched off; returns whether a file is at its end."""
        settings, status = self.settings, self.status
        client = self._connect(lambda: self._is_stopped or not self._is_on)
        with self._opened() as source:
            if not source.is_live:
                status.back(Part.CAMERA)
            try:
                for found in watch(
                    client,
                    source,
                    on_lost=self._server_lost,
                    keep_images=True,
                    # Inside a call nobody could say why there is no server.
                    waits_for_server=False,
                    **_stream_arguments(settings),
                ):
                    # With a limit on the rate, most frames are left out on purpose.
                    status.answered(found, source.num_skipped if settings.fps is None else 0)
                    if found.answer.prediction is not None and found.answer.model != self._model:
                        self._model = found.answer.model
                        aside(partial(self._ask_for_labels, client, self._model))
            finally:
                status.stream_ended("the stream ended before the explanation")
            return not source.is_stopped and not source.is_live

    @contextmanager
    def _opened(self) -> Iterator[Source]:
        settings = self.settings
        with open_source(
            settings.source.get_secret_value(),
            max_fps=settings.fps,
            quality=settings.quality,
            report=self._say,
            transport=settings.transport,
            credentials=self._password,
            wait=True,
            frozen_after_s=settings.frozen_after_s,
            on_lost=self._camera_lost,
            on_back=lambda: self.status.back(Part.CAMERA),
        ) as source:
            with self._changed:
                self._source = source
                is_wanted = self._is_on and not self._is_stopped
            try:
                if not is_wanted:
                    source.stop()
                yield source
            finally:
                with self._changed:
                    self._source = None

    def _ask_for_labels(self, client: Client, model: ModelRef) -> None:
        # A caller who may classify need not see the models.
        with suppress(LimelensError):
            labels = client.model(model.name, model.version).labels
            self.status.knows_model(tuple(label.name for label in labels if label.alert))

    def _password(self) -> str:
        """`USER:PASSWORD`, read each time that the camera is opened; empty if it needs none."""
        settings = self.settings
        try:
            found = read_secret("its password", settings.password_file, settings.password_env)
        except SecretError as error:
            raise SourceError(str(error), LossReason.UNAUTHORIZED) from None
        return "" if found is None else found.get_secret_value()

    def _camera_lost(self, error: SourceError) -> None:
        # The source says it to people, and again at growing intervals.
        self.status.lost(Part.CAMERA, error.unknown_reason, self._words(error), is_said=True)

    def _words(self, error: SourceError) -> str:
        """Why a camera is lost, without what is known already: which one, and that it is lost."""
        words = first_line(error).removeprefix(f"{self.status.source}: ")
        return words.removeprefix("cannot be read: ")

    def _server_lost(self, error: LimelensError) -> None:
        def later(words: str) -> None:
            self.status.lost_because(Part.SERVER, words)

        if self.settings.model is not None and not isinstance(error, ModelServerError):
            words = f"the server of {self.settings.model.name} is gone"
        else:
            words = why_lost(self._server, error, later)
        self.status.lost(Part.SERVER, UnknownReason.SERVER_LOST, words)

    def _failed(self, error: Exception) -> None:
        """Says why watching failed; it will be tried again."""
        if isinstance(error, SourceError):
            self.status.lost(Part.CAMERA, UnknownReason.CAMERA_LOST, self._words(error))
        elif isinstance(error, UnavailableError | OverloadedError | ExpiredError):
            self._server_lost(error)
        elif isinstance(error, MissingExtraError):
            self.status.lost(Part.CAMERA, UnknownReason.FAILED, first_line(error))
        elif isinstance(error, LimelensError | OSError):
            self.status.lost(Part.SERVER, UnknownReason.REFUSED, first_line(error))
        else:
            _log.exception("camera %s failed", self.settings.id)
            name = type(error).__name__
            self.status.lost(Part.CAMERA, UnknownReason.FAILED, f"{name}: {first_line(error)}")

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Waits until a condition holds or it is stopped; returns whether it goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or condition(), timeout_s)
            return not self._is_stopped


def _until(settings: CameraSettings) -> str:
    """Why a camera is off, and until when."""
    begins = None if settings.schedule is None else settings.schedule.next_on(datetime.now())
    if begins is None:
        return "outside its schedule"
    return f"outside its schedule until {begins:%A} {begins:%H:%M}"


def _stream_arguments(settings: CameraSettings) -> dict[str, Any]:
    """What `Client.stream` is asked for."""
    return {
        "camera_id": settings.id,
        "model": settings.model_name,
        "version": settings.version,
        "region": settings.region,
        "smoothing": settings.smoothing,
        "required_to_alert": settings.required_to_alert,
        "threshold": settings.threshold,
        "max_decision_age_s": settings.holds_for_s or 0.0,
        "faces": settings.face_options,
        "explain_on_change": None if settings.explain == "never" else _EXPLAINED_AS,
        "explain_alerts_only": settings.explain == "alerts",
    }
