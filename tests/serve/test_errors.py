"""The classes of errors: drawn in one tree, with their statuses, and one root for all parts."""

from __future__ import annotations

import pickle
import re
from importlib import import_module

import pytest

from limelens.errors import LimelensError
from limelens.explain import ExplainError, InvalidArgumentError
from limelens.serve import errors, status

LINE = re.compile(r"^ {4}([│ ]*)[├└]── (\w+) +(.+)$", re.MULTILINE)


def classes() -> dict[str, type[LimelensError]]:
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    del found["LimelensError"]
    return found


def drawn() -> dict[str, tuple[str, str]]:
    """Of each class in the tree: its parent, and what the line says after its name."""
    found: dict[str, tuple[str, str]] = {}
    ancestors: list[tuple[int, str]] = [(-1, "LimelensError")]
    for indent, name, words in LINE.findall(errors.__doc__ or ""):
        while ancestors[-1][0] >= len(indent):
            ancestors.pop()
        found[name] = (ancestors[-1][1], words)
        ancestors.append((len(indent), name))
    return found


def test_the_tree_draws_each_class_below_its_parent() -> None:
    expected = {name: kind.__bases__[0].__name__ for name, kind in classes().items()}
    assert {name: parent for name, (parent, _) in drawn().items()} == expected


def test_the_tree_names_the_status_of_each_class_that_is_sent() -> None:
    sent = {name: kind for name, kind in classes().items() if kind.grpc_reason != "UNEXPECTED"}
    named = {name: words.split()[0] for name, (_, words) in drawn().items() if words[0].isupper()}
    assert named == {name: kind.grpc_status for name, kind in sent.items()}
    for kind in sent.values():
        assert status.code_number(kind.grpc_status) > 0
    assert len({kind.grpc_reason for kind in sent.values()}) == len(sent)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("limelens.explain.errors", ["ExplainError", "PredictionError"]),
        ("limelens.train", ["DataError", "ExportError", "TrainingError", "ConfigError"]),
        ("limelens.serve.tools.camera", ["SourceError"]),
        ("limelens.serve.tools.similar", ["IndexRefusedError"]),
    ],
)
def test_one_root_catches_the_errors_of_every_part(module: str, names: list[str]) -> None:
    for name in names:
        assert issubclass(getattr(import_module(module), name), LimelensError)


@pytest.mark.parametrize(
    "error",
    [
        errors.OverloadedError("full", 1.5),
        errors.InvalidImageError("damaged", "images[0]"),
        errors.MissingFileError(FileNotFoundError(2, "No such file", "a.pem"), "expected a key"),
        InvalidArgumentError("hide", "'x'; expected mean"),
        ExplainError("not possible"),
    ],
)
def test_an_error_survives_pickling(error: LimelensError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
