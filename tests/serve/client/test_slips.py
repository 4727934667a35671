"""A caller's mistakes, found before a call: files, addresses, names of arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limelens.serve import AsyncClient, Client
from limelens.serve.addresses import parse_address
from limelens.serve.client import Tls
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    MissingFileError,
    UnreadableFileError,
)
from limelens.serve.redaction import image_address, without_secrets


def _made(client: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A client; what it is made with is not checked before."""
    return client(*arguments, **named)


@pytest.fixture
def nobody() -> Any:
    """A client of a server that is not there."""
    with Client("127.0.0.1:1", max_attempts=1) as client:
        yield client


@pytest.mark.parametrize("method", ["classify", "embed", "explain"])
def test_a_missing_image_is_an_error_of_limelens_and_of_the_system(
    nobody: Client, method: str, tmp_path: Path
) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.jpg: No such file.*expected a file") as one:
        getattr(nobody, method)(tmp_path / "gone.jpg")
    assert isinstance(one.value, LimelensError)
    assert isinstance(one.value, FileNotFoundError)
    assert one.value.filename == str(tmp_path / "gone.jpg")


def test_a_folder_in_place_of_an_image_is_named(nobody: Client, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="Is a directory"):
        nobody.classify(tmp_path)


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"ca\.pem: No such file.*expected a PEM file"):
        Client("door:8500", tls=Tls(tmp_path / "ca.pem"))


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("scheme", ["http", "https", "HTTP", "grpc", "grpcs"])
def test_a_web_address_is_refused_with_the_reason(
    client: Callable[[str], Any], scheme: str
) -> None:
    with pytest.raises(InvalidRequestError, match="expected HOST:PORT without a scheme"):
        client(f"{scheme}://127.0.0.1:8500")


@pytest.mark.parametrize("text", ["http://u:SECRET@door:8500", "u:SECRET@door:8500"])
def test_an_address_that_is_refused_shows_no_password(text: str) -> None:
    with pytest.raises(ValueError, match="without a scheme") as caught:
        parse_address(text)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@door:554/live?x=1", "rtsp://door:554/…"),
        ("rtsp://door", "rtsp://door"),
        ("rtsp://door/", "rtsp://door"),
        ("http://[fe80::1%25eth0]:80/a", "http://[fe80::1%25eth0]:80/…"),
        ("http://[::1]:80/a", "http://[::1]:80/…"),
        ("http://door/a@b", "http://…"),
        ("no address", "…"),
    ],
)
def test_only_host_and_port_of_an_address_are_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@store/a/SECRET/door.jpg?sig=SECRET", "https://store/…/door.jpg"),
        ("https://store/door.jpg", "https://store/door.jpg"),
        ("https://store/a/user=x&password=SECRET", "https://store/…"),
        ("https://u:SE/CRET@store/door.jpg", "https://…"),
        ("https://store/?SECRET/door.jpg", "https://store/…"),
    ],
)
def test_the_file_name_in_an_images_address_is_shown(url: str, shown: str) -> None:
    assert image_address(url) == shown


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda client: client.classify(b"", treshold=0.5), "classify.*'treshold'.*'threshold'"),
        (lambda client: client.embed(b"", normalise=True), "embed.*'normalise'.*'normalize'"),
        (lambda client: client.explain(b"", num_sample=9), "explain.*'num_sample'.*'num_samples'"),
        (lambda client: client.explain(b"", picures=()), "explain.*'picures'.*'renderings'"),
        (lambda client: client.stream([], smothing=(1, 1)), "stream.*'smothing'.*'smoothing'"),
        (
            lambda client: client.classify(b"", xyz=1),
            "classify.*'xyz'; expected embedding, faces, model",
        ),
        (lambda _: _made(Client, "door:8500", tiemout_s=1), "Client.*'tiemout_s'.*'timeout_s'"),
        (lambda _: _made(AsyncClient, "door:8500", tokn=""), "AsyncClient.*'tokn'.*'token'"),
    ],
)
def test_a_misspelt_argument_names_the_method_and_what_was_meant(
    nobody: Client, call: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        list(call(nobody))
    assert "_request" not in str(caught.value)


async def test_the_asynchronous_client_raises_the_same(tmp_path: Path) -> None:
    async with AsyncClient("127.0.0.1:1", max_attempts=1) as client:
        with pytest.raises(TypeError, match=r"classify.*'threshold'"):
            await client.classify(b"", treshold=0.5)  # type: ignore[call-overload]
        with pytest.raises(MissingFileError):
            await client.classify(tmp_path / "gone.jpg")
