"""Every method has its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from limelens.serve.access.rights import Right, needed_right, read_rights
from limelens.v1 import classifier_service_pb2

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("module", [classifier_service_pb2, health_pb2, reflection_pb2])
def test_every_method_that_is_served_has_a_right_of_its_own_or_is_open(module: Any) -> None:
    services = module.DESCRIPTOR.services_by_name.values()
    methods = [f"/{s.full_name}/{method.name}" for s in services for method in s.methods]
    assert methods
    assert [method for method in methods if needed_right(method) is Right.ADMIN] == []


def test_the_next_version_of_reflection_has_a_right_too() -> None:
    assert needed_right("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") is Right.MODELS


def test_the_inference_protocols_methods_have_rights() -> None:
    service = "/inference.GRPCInferenceService/"
    rights = {
        name: needed_right(service + name)
        for name in ("ServerLive", "ModelInfer", "ModelStreamInfer", "ModelConfig")
    }
    assert rights == {
        "ServerLive": None,
        "ModelInfer": Right.CLASSIFY,
        "ModelStreamInfer": Right.CLASSIFY,
        "ModelConfig": Right.MODELS,
    }
    assert needed_right(service + "RepositoryModelUnload") is Right.ADMIN


@pytest.mark.parametrize("method", ["/a/b", "", "/limelens.v1.ClassifierService/New", "x"])
def test_a_method_without_a_right_is_for_administrators(method: str) -> None:
    assert needed_right(method) is Right.ADMIN


def test_an_unknown_right_is_refused_with_the_known_ones() -> None:
    assert read_rights(["models", "explain"]) == {Right.MODELS, Right.EXPLAIN}
    with pytest.raises(
        ValueError, match=r"'Explain' is not a right; expected some of classify, embed"
    ):
        read_rights(["Explain"])


def test_the_documentation_names_every_right() -> None:
    words = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "security.md").read_text()))
    assert set(Right) <= words
