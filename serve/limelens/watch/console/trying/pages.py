"""The tab's page, and what its script asks for: parts of the page, and lines of progress."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from limelens.serve import (
    Client,
    InvalidImageError,
    InvalidRequestError,
    LimelensError,
    ModelInfo,
    Prediction,
    UnavailableError,
)
from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.console.access.audit import operators_only
from limelens.watch.console.boxes import aspect, face_boxes
from limelens.watch.console.explained import explained
from limelens.watch.console.state import AppState
from limelens.watch.console.trying.asked import FILLS, SAMPLES, SEGMENTS, Asked, usual_numbers
from limelens.watch.console.trying.desk import BusyError, Desk, SupersededError
from limelens.watch.console.trying.running import in_thread
from limelens.watch.console.trying.trial import Progress, Tried, classify

_LISTED_S: Final = 5.0
"""How long the page waits for the server's list of models."""


def routes(state: AppState) -> list[Route]:
    """The tab; none without a server."""
    if state.client is None:
        return []
    tab = _Tab(state, state.client)
    return [
        Route("/try", tab.page),
        Route("/try/classify", operators_only(tab.classify), methods=["POST"]),
        Route("/try/explain", operators_only(tab.explain), methods=["POST"]),
        Route("/try/cancel", operators_only(tab.cancel), methods=["POST"]),
        Route("/try/{name}/{which}.jpg", tab.image),
    ]


class _Tab:
    """The endpoints. Calls of the server run in threads."""

    def __init__(self, state: AppState, connect: Callable[[], Client]) -> None:
        self._pages = state.pages
        self._max_bytes = state.settings.max_upload_bytes
        self._connect = connect
        self._desk = Desk()

    async def page(self, request: Request) -> Response:
        """The form, with the models that the server has."""
        models, problem = await self._models(request)
        return self._pages.render(
            request,
            "trying.html",
            models=[_model(info) for info in models],
            problem=problem,
            segments=SEGMENTS,
            samples=SAMPLES,
            fills=FILLS,
            max_bytes=self._max_bytes,
        )

    async def classify(self, request: Request) -> Response:
        """What the model says of an image, as a part of the page."""
        try:
            asked, image = await self._read(request)
            async with self._desk.turn(_session(request)):
                with self._connect() as client:
                    result = await run_in_threadpool(classify, client, image, asked)
        except (LimelensError, BusyError, SupersededError) as error:
            return PlainTextResponse(self._words(request, error), _status(error))
        prediction = result[0]
        return self._pages.render(
            request,
            "trying_decision.html",
            prediction=prediction,
            state=_state(prediction),
            faces=face_boxes(prediction.faces),
            aspect=aspect(image),
            worst=_worst(prediction),
            model=result.model,
            milliseconds=result.timings_ms.total,
        )

    async def explain(self, request: Request) -> Response:
        """Progress and at last a part of the page, a line of JSON each."""
        try:
            asked, image = await self._read(request)
        except LimelensError as error:
            return PlainTextResponse(self._words(request, error), _status(error))
        return StreamingResponse(self._lines(request, asked, image), media_type="application/jsonl")

    async def cancel(self, request: Request) -> Response:
        """Ends what the session has under way."""
        self._desk.end(_session(request))
        return Response(status_code=204)

    async def image(self, request: Request) -> Response:
        """An image of the session's last explanation."""
        found = self._desk.image(
            _session(request), request.path_params["name"], request.path_params["which"]
        )
        if found is None:
            raise HTTPException(404)
        return Response(found, media_type="image/jpeg")

    async def _read(self, request: Request) -> tuple[Asked, bytes]:
        asked = Asked.read(request.query_params)
        image = await request.body()  # bounded for every page
        if not image:
            raise InvalidRequestError("image", "empty; expected the bytes of an image file")
        return asked, image

    async def _models(self, request: Request) -> tuple[list[ModelInfo], str]:
        """The models that are served; none and why, if the server does not answer."""

        def listed() -> tuple[ModelInfo, ...]:
            with self._connect() as client:
                return client.models(timeout_s=_LISTED_S)

        try:
            models = await run_in_threadpool(listed)
        except LimelensError as error:
            return [], self._words(request, error)
        served = [info for info in models if info.ready]
        return served, "" if served else self._pages.say(request, "trying.no_models")

    async def _lines(self, request: Request, asked: Asked, image: bytes) -> AsyncGenerator[str]:
        try:
            async with self._desk.turn(_session(request)) as turn:
                async for news in in_thread(self._connect, image, asked, turn):
                    if await request.is_disconnected():
                        turn.ended.set()
                    yield _line(self._news(request, news))
        except (LimelensError, BusyError, SupersededError) as error:
            yield _line({"problem": self._words(request, error)})

    def _news(self, request: Request, news: Progress | Tried | None) -> dict[str, Any]:
        if news is None:
            return {"cancelled": True}
        if isinstance(news, Progress):
            words = self._pages.say(
                request, "trying.progress", done=news.num_samples, most=news.max_samples
            )
            return {"done": news.num_samples, "most": news.max_samples, "words": words}
        kept = self._desk.keep(_session(request), news.images)
        page = self._pages.render(
            request,
            "trying_explained.html",
            tried=news,
            why=explained(partial(self._pages.say, request), news.found, news.one),
            folder=f"/try/{kept.name}",
        )
        return {"part": bytes(page.body).decode()}

    def _words(self, request: Request, error: Exception) -> str:
        if isinstance(error, BusyError):
            return self._pages.say(request, "trying.busy")
        if isinstance(error, SupersededError):
            return self._pages.say(request, "trying.superseded")
        if isinstance(error, UnavailableError):
            return self._pages.say(request, "trying.no_server", error=error)
        if isinstance(error, InvalidImageError):
            return self._pages.say(request, "trying.no_image", error=error.description)
        return self._pages.say(request, "trying.refused", error=error)


def _line(news: dict[str, Any]) -> str:
    return json.dumps(news) + "\n"


def _session(request: Request) -> str:
    """Who has a turn: a user at one browser."""
    visitor = request.state.visitor
    return f"{visitor.name}\n{visitor.visit}"


def _status(error: Exception) -> int:
    if isinstance(error, (BusyError, UnavailableError)):
        return 503
    return 409 if isinstance(error, SupersededError) else 400


def _model(info: ModelInfo) -> dict[str, Any]:
    """A model as the form has it."""
    segments, samples = usual_numbers(info)
    fill = info.explain_settings.hide if info.explain_settings is not None else None
    return {
        "name": info.name,
        "version": info.version,
        "labels": [label.name for label in info.labels],
        "segments": segments,
        "samples": samples,
        "fill": fill if isinstance(fill, str) else "mean",
    }


def _state(prediction: Prediction) -> CameraState:
    if prediction.alert:
        return CameraState.ALERT
    decided = prediction.label is not None or prediction.labels
    return CameraState.CLEAR if decided else CameraState.UNKNOWN


def _worst(prediction: Prediction) -> int | None:
    """The face that is explained unless another is chosen; None if none can be."""
    judged = [(i, face) for i, face in enumerate(prediction.faces) if face.issue is None]
    order = {CameraState.ALERT: 0, CameraState.UNKNOWN: 1, CameraState.CLEAR: 2}
    return min(judged, key=lambda each: order[_state(each[1].prediction)])[0] if judged else None
