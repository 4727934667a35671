"""A camera that speaks RTSP, by gstreamer; run by the system's Python, which has its bindings.

Takes one argument, a JSON object; prints the port; then shows the pattern named by each line of
standard input, and prints `shown`.
"""

from __future__ import annotations

import json
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

_WATCHER = "watcher"


def serve(
    port: int, size: tuple[int, int], fps: int, pattern: str, auth: str, user: str, password: str
) -> None:
    """Serves `/live` until it is killed."""
    Gst.init(None)
    if Gst.ElementFactory.find("x264enc") is None:
        sys.exit("gstreamer has no x264enc")
    width, height = size
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_launch(
        f"( videotestsrc name=scene is-live=true pattern={pattern} "
        f"! video/x-raw,format=I420,width={width},height={height},framerate={fps}/1 "
        # A whole frame each second, as cameras send.
        f"! x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={fps} "
        "! rtph264pay name=pay0 pt=96 )"
    )
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    if auth:
        _protect(server, factory, auth, user, password)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    shown: list[Gst.Element] = []
    factory.connect(
        "media-configure",
        lambda _factory, media: shown.append(media.get_element().get_child_by_name("scene")),
    )

    def obey(*_: object) -> bool:
        line = sys.stdin.readline().strip()
        for scene in shown:
            Gst.util_set_object_arg(scene, "pattern", line)
        print("shown", flush=True)
        return bool(line)

    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IO_IN, obey)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def _protect(
    server: GstRtspServer.RTSPServer,
    factory: GstRtspServer.RTSPMediaFactory,
    auth: str,
    user: str,
    password: str,
) -> None:
    authentication = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", _WATCHER)
    if auth == "basic":
        authentication.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    else:
        authentication.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        authentication.add_digest(user, password, token)
    server.set_auth(authentication)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(_WATCHER, "media.factory.access", True)
    permissions.add_permission_for_role(_WATCHER, "media.factory.construct", True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
