"""Schemas of Kubernetes and of KServe, from wheels."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.deploy.fetched import wheel

VERSIONS = ("1.30", "1.33", "1.37")
"""Of Kubernetes."""


def validated(versions: Sequence[str], *files: Path) -> subprocess.CompletedProcess[str]:
    """kubernetes-validate's verdict, which refuses unknown fields."""
    schemas = tuple(f"/v{one}.0-local-strict/" for one in VERSIONS)
    folders = [
        wheel(
            "kubernetes-validate",
            "1.37.0",
            lambda name: "json-schema" not in name or any(one in name for one in schemas),
        ),
        wheel("importlib-resources", "6.5.2"),
    ]
    command = [sys.executable, "-m", "kubernetes_validate", "--strict"]
    command += [word for one in versions for word in ("--kubernetes-version", one)]
    return subprocess.run(
        [*command, *files],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )


class Model(NamedTuple):
    """A class of KServe's SDK: its fields' types, by their names in JSON."""

    fields: dict[str, str]


def kserve_models() -> dict[str, Model]:
    """Read from the source, because importing the SDK needs a dozen packages more."""
    found = {}
    for file in (wheel("kserve", "0.21.0") / "kserve" / "models").glob("v1*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    target.id: ast.literal_eval(one.value)
                    for one in node.body
                    if isinstance(one, ast.Assign)
                    for target in one.targets
                    if isinstance(target, ast.Name)
                }
                names, types = tables["attribute_map"], tables["openapi_types"]
                found[node.name] = Model({names[key]: types[key] for key in types})
    return found


def unknown_fields(value: Any, kind: str, models: dict[str, Model], path: str = "$") -> list[str]:
    """Paths of what KServe does not know. Of Kubernetes' own types nothing is checked."""
    if kind.startswith("list["):
        assert isinstance(value, list), path
        inner = kind.removeprefix("list[").removesuffix("]")
        return [
            one
            for i, item in enumerate(value)
            for one in unknown_fields(item, inner, models, f"{path}[{i}]")
        ]
    simple = {"str": str, "bool": bool, "int": int}.get(kind)
    if simple is not None:
        return [] if isinstance(value, simple) else [f"{path} is no {kind}"]
    if kind not in models:
        return []
    assert isinstance(value, dict), path
    fields = models[kind].fields
    return [f"{path}.{key}" for key in value.keys() - fields.keys()] + [
        one
        for key in value.keys() & fields.keys()
        for one in unknown_fields(value[key], fields[key], models, f"{path}.{key}")
    ]


def missing(wanted: Any, found: Any, path: str = "$") -> list[str]:
    """What is in `wanted` and not the same in `found`, which may hold more."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        lost = [f"{path}.{key}" for key in wanted.keys() - found.keys()]
        both = wanted.keys() & found.keys()
        return lost + [one for k in both for one in missing(wanted[k], found[k], f"{path}.{k}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [one for i, (a, b) in pairs for one in missing(a, b, f"{path}[{i}]")]
    return [] if wanted == found else [path]
