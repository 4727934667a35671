"""The tiles: how every camera is now, with its live image."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limelens.watch.console.cameras.event_stream import EventStream
from limelens.watch.console.cameras.following import states
from limelens.watch.console.cameras.showing import frame_number, shown_faces, shown_region
from limelens.watch.console.cameras.viewers import Viewers
from limelens.watch.console.state import AppState


def routes(state: AppState) -> list[Route]:
    """The page, the stream of states and the frames; nothing where no cameras are watched."""
    if state.live is None:
        return []
    live, viewers = state.live, Viewers(state.settings)

    async def page(request: Request) -> Response:
        return state.pages.render(
            request,
            "cameras.html",
            interval_ms=round(1000 / state.settings.frames_per_s),
            has_events=state.record is not None,
        )

    async def stream(request: Request) -> Response:
        return EventStream(states(request, state, live, viewers))

    async def frame(request: Request) -> Response:
        camera = live.get(request.query_params.get("camera", ""))
        viewer = viewers.get(request.query_params.get("viewer", ""))
        if viewer is None:
            raise HTTPException(403, "viewer")
        if camera is None or camera.frame is None:
            raise HTTPException(404)
        number = frame_number(camera.frame)
        if number == request.query_params.get("after"):
            return Response(status_code=204)
        if not viewer.may_have(camera.camera_id):
            return Response(status_code=204, headers={"retry-after": "1"})
        about = {
            "number": number,
            "time": camera.frame.time.isoformat(),
            "region": shown_region(camera.region),
            "faces": shown_faces(camera.frame.faces),
        }
        return Response(
            camera.frame.jpeg, media_type="image/jpeg", headers={"x-frame": json.dumps(about)}
        )

    return [
        Route("/cameras", page),
        Route("/cameras/stream", stream),
        Route("/cameras/frame", frame),
    ]
