"""Finds out before a start what the file names and is not there. It opens no connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from limelens.serve.errors import LimelensError
from limelens.serve.tools.camera.places import Kind, place
from limelens.serve.tools.camera.video import check_installed
from limelens.watch.cameras.config import WatchConfig
from limelens.watch.cameras.settings import CameraSettings, ServerSettings
from limelens.watch.secret import SecretError, read_secret

_FILES: Final = ("secret_file", "password_file", "tls_ca", "tls_cert", "tls_key", "users")
_VARIABLES: Final = ("secret_env", "password_env")


def missing(config: WatchConfig) -> Iterator[str]:
    """Sentences about secrets, certificates, models, sources and extras that cannot be used."""
    if any(camera.model is None for camera in config.camera):
        yield from _of_server(config.server)
    for camera in config.camera:
        for reason in _of_camera(camera):
            yield f"{camera.id}: {reason}"
    for webhook in config.webhook:
        yield from _of_section(f"webhook {webhook.name}", webhook)
    for name, section in (("mqtt", config.mqtt), ("console", config.console)):
        if section is not None:
            yield from _of_section(name, section)


def _of_section(name: str, section: BaseModel) -> Iterator[str]:
    for key, value in section:
        if key in _FILES and isinstance(value, Path) and not value.is_file():
            yield f"{name}: {key}: {value} is no file"
        elif key in _VARIABLES and value is not None and not os.environ.get(value):
            yield f"{name}: {key}: the variable {value} is not set"


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
        if place(camera.source.get_secret_value()).kind is not Kind.IMAGES:
            check_installed()
    except LimelensError as error:
        yield str(error)
    if camera.model is not None and not camera.model.is_file():
        yield f"{camera.model} is no file; expected a bundle, which limelens export writes"
    if camera.model is not None and find_spec("onnxruntime") is None:
        yield "serving a model needs limelens[serve-cpu]; pip install 'limelens[serve-cpu]'"
