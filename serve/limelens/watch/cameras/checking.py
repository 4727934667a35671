"""Finds out before a start what the file names and is not there. It opens no connection."""

from __future__ import annotations

from collections.abc import Iterator

from limelens.serve.errors import LimelensError
from limelens.serve.tools.camera.places import place
from limelens.watch.cameras.config import WatchConfig
from limelens.watch.cameras.secret import SecretError, read_secret
from limelens.watch.cameras.settings import CameraSettings, ServerSettings


def missing(config: WatchConfig) -> Iterator[str]:
    """Sentences about secrets, certificates, models, videos and folders that cannot be used."""
    if any(camera.model is None for camera in config.camera):
        yield from _of_server(config.server)
    for camera in config.camera:
        for reason in _of_camera(camera):
            yield f"{camera.id}: {reason}"


def _of_server(server: ServerSettings) -> Iterator[str]:
    try:
        read_secret("the server's token", server.token_file, server.token_env)
    except SecretError as error:
        yield str(error)
    for file in (server.tls_ca, server.tls_cert, server.tls_key):
        if file is not None and not file.is_file():
            yield f"{file} is no file; expected a PEM file"


def _of_camera(camera: CameraSettings) -> Iterator[str]:
    try:
        read_secret("its password", camera.password_file, camera.password_env)
    except SecretError as error:
        yield str(error)
    try:
        place(camera.source.get_secret_value())
    except LimelensError as error:
        yield str(error)
    if camera.model is not None and not camera.model.is_file():
        yield f"{camera.model} is no file; expected a bundle, which limelens export writes"
