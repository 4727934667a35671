"""docs/architecture.md against the code: its rooms, its arrows, and the modules on the ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PARTS = ("bulk", "cli", "errors", "explain", "inference", "serve", "train", "v1", "watch")
NAMED = ("serve", "explain", "train", "proto", "tests", "benchmarks", "examples", "fuzz")
ROOMS = ("serve", "train", "explain", "watch", "bulk", "cli")
ARROW = re.compile(r"\s*(?:-->|-\.->)(?:\|[^|]*\|)?\s*")
NODE = re.compile(r"(\w+)(?:\[\"?(.*?)\"?\])?$")


@dataclass(frozen=True)
class Diagram:
    """A Mermaid flowchart; its first comment says what it draws.

    Attributes:
        title: The comment, such as `rooms limelens.serve`.
        labels: By node.
        arrows: Pairs of nodes.
        base: Nodes of the subgraph `base`, which every room may import.
    """

    title: str
    labels: dict[str, str]
    arrows: frozenset[tuple[str, str]]
    base: frozenset[str]


def diagrams() -> Iterator[Diagram]:
    for block in re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(), re.DOTALL):
        labels: dict[str, str] = {}
        arrows: set[tuple[str, str]] = set()
        base: set[str] = set()
        lines = [line.strip() for line in block.splitlines()]
        (title,) = (line.removeprefix("%% ") for line in lines if line.startswith("%% "))
        group = ""
        for line in lines:
            if line.startswith("subgraph "):
                group = line.split()[1]
            elif line == "end":
                group = ""
            elif line and not line.startswith(("flowchart ", "%% ", "direction ")):
                steps = [
                    [NODE.fullmatch(one.strip()) for one in step.split(" & ")]
                    for step in ARROW.split(line)
                ]
                for step in steps:
                    for node in step:
                        assert node is not None, line
                        labels[node[1]] = node[2] or labels.get(node[1], node[1])
                        if group == "base":
                            base.add(node[1])
                for before, after in pairwise(steps):
                    arrows |= {(a[1], b[1]) for a in before if a for b in after if b}
        yield Diagram(title, labels, frozenset(arrows), frozenset(base))


DIAGRAMS = {diagram.title: diagram for diagram in diagrams()}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*(f"limelens.{part}" for part in PARTS), cache_dir=None)


def imports(graph: grimp.ImportGraph, whole: str) -> set[tuple[str, str]]:
    """Which children of a package import which, at any depth."""
    depth = whole.count(".") + 1
    found = set()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            names = [one.split(".") for one in (module, target) if one.startswith(f"{whole}.")]
            if len(names) == 2 and names[0][depth] != names[1][depth]:
                found.add((names[0][depth], names[1][depth]))
    return found


def reached(arrows: frozenset[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs that a path of arrows joins."""
    found = set(arrows)
    while more := {(a, d) for a, b in found for c, d in arrows if b == c} - found:
        found |= more
    return found


def test_the_parts_and_their_arrows_are_the_real_ones(graph: grimp.ImportGraph) -> None:
    drawn = DIAGRAMS["parts limelens"]
    assert sorted(drawn.labels) == sorted(PARTS)
    check_arrows(drawn, imports(graph, "limelens"))


@pytest.mark.parametrize("part", ROOMS)
def test_every_room_is_drawn_and_every_drawn_room_exists(
    graph: grimp.ImportGraph, part: str
) -> None:
    children = {name.rpartition(".")[2] for name in graph.find_children(f"limelens.{part}")}
    assert set(DIAGRAMS[f"rooms limelens.{part}"].labels) == children - {"__main__"}


@pytest.mark.parametrize("part", ROOMS)
def test_the_arrows_between_rooms_are_the_imports(graph: grimp.ImportGraph, part: str) -> None:
    check_arrows(DIAGRAMS[f"rooms limelens.{part}"], imports(graph, f"limelens.{part}"))


def check_arrows(drawn: Diagram, real: set[tuple[str, str]]) -> None:
    """Each arrow is an import; each import is an arrow, a path of arrows, or into the base."""
    assert drawn.arrows - real == set()
    real = {(a, b) for a, b in real if b not in drawn.base and a != "__main__"}
    assert real - reached(drawn.arrows) == set()


WAYS = sorted(title for title in DIAGRAMS if title.startswith("way "))


def test_there_are_ways_of_an_image_an_explanation_and_a_training_image() -> None:
    assert len(WAYS) == 3


@pytest.mark.parametrize("title", WAYS)
def test_the_modules_and_functions_on_a_way_exist(graph: grimp.ImportGraph, title: str) -> None:
    """A label's first line is `module` or `module: function`, relative to limelens."""
    for label in DIAGRAMS[title].labels.values():
        module, _, function = label.split("<br>")[0].partition(": ")
        assert f"limelens.{module}" in graph.modules, label
        if function:
            assert function in defined(f"limelens.{module}"), label


def test_every_file_that_a_page_names_exists() -> None:
    """Pages give paths from the root or from a part, such as `rpc/responses.py`."""
    files = [f"/{path.relative_to(ROOT)}" for part in NAMED for path in (ROOT / part).rglob("*.py")]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        if page.name == "CHANGELOG.md":  # which names what is gone
            continue
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text()):
            assert any(file.endswith(f"/{name}") for file in files), f"{page.name}: {name}"


def defined(module: str) -> set[str]:
    """Names of the functions and classes of a module, methods included."""
    path = Path(*module.split("."))
    files = [ROOT / root / path for root in ("serve", "explain", "train", "proto")]
    (file,) = (
        one
        for folder in files
        for one in (folder.with_suffix(".py"), folder / "__init__.py")
        if one.exists()
    )
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)}
