"""A checkout that is not installed has no version, and works all the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from typing import Any

import grpc
import pytest

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import inference_service_pb2_grpc as pb2_grpc
from limelens.serve import about


def _none_installed(name: str) -> str:
    raise PackageNotFoundError(name)


def test_a_server_from_a_checkout_reports_an_unknown_version(
    start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(about, "version", _none_installed)
    with grpc.insecure_channel(start_server().address) as channel:
        stub = pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        found = stub.ServerMetadata(pb2.ServerMetadataRequest(), timeout=60)
    assert (found.name, found.version) == ("limelens", about.UNKNOWN)


def test_the_installed_version_is_known() -> None:
    assert about.package_version()[0].isdecimal()
