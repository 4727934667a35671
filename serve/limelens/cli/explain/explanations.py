"""Explanations on the terminal and as JSON.

Knows their content. Does not know how they were requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.progress import TextColumn

from limelens.cli.classifying import print_one
from limelens.cli.terminal.faces import describe_face, face_document
from limelens.cli.terminal.printing import err, out, progress_bar
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.explain import Faithfulness
    from limelens.serve.client.results import (
        ExplainSettings,
        ExplanationUpdate,
        LabelExplanation,
        ServedExplanation,
    )
    from limelens.serve.tools.explain_report.explain_many import ExplainedImage

_SHOWN_WEIGHTS: Final = 5
_LABEL_KEYS: Final = (
    "label", "against", "probability", "baseline", "intercept", "local_prediction", "score",
    "stability",
)  # fmt: skip
_TIMING_KEYS: Final = ("segment", "predict", "fit", "total")


def image_document(one: ExplainedImage) -> dict[str, Any]:
    """One image of several, as JSON."""
    if one.explanation is None or one.prediction is None:
        return {"path": str(one.file.path), "error": one.error}
    return {
        **explanation_document(one.file.path, one.explanation),
        "decision": one.prediction.decision.value,
        "label": one.prediction.label,
        "labels": list(one.prediction.labels),
        "true_label": one.file.true_label,
        "mistake": one.is_mistake,
    }


def explanation_document(
    image: Path, found: ServedExplanation, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """An explanation as `--json` prints it; the image's size is as for `face_document`."""
    face = {} if found.face is None else {"face": face_document(found.face, size)}
    return {
        "path": str(image),
        **face,
        "model": found.model.name,
        "version": found.model.version,
        "provider": found.model.provider,
        **{key: getattr(found, key) for key in ("method", "num_segments", "num_samples", "seed")},
        "warnings": list(found.warnings),
        "explanations": [
            {
                **{key: getattr(one, key) for key in _LABEL_KEYS},
                "weights": [asdict(weight) for weight in one.weights],
            }
            for one in found.explanations
        ],
        "timings_ms": {key: getattr(found.timings_ms, key) for key in _TIMING_KEYS},
        "settings": None if found.settings is None else settings_document(found.settings),
        "settings_from_model": list(found.settings_from_model),
    }


def settings_document(settings: ExplainSettings) -> dict[str, Any]:
    """How an image was explained, or how a model is explained by default, as JSON."""
    document = asdict(settings)
    return {key: value for key, value in document.items() if key != "why" or value}


def print_explanation(
    image: Path, found: ServedExplanation, size: tuple[int, int] | None = None
) -> None:
    """One image's explanation, for people; with its size, the face that it is about."""
    model = f"{escape(found.model.name)} version {found.model.version}"
    out.print(f"{escape(str(image))}, explained on {model} ({found.model.provider})")
    if found.face is not None and size is not None:
        out.print(f"face {describe_face(found.face, size)}")
    for one in found.explanations:
        _print_label(one)
    timings = found.timings_ms
    out.print(
        f"{found.num_segments} segments, {found.num_samples} samples, seed {found.seed}; "
        f"{timings.total:.0f} ms (segments {timings.segment:.0f}, model {timings.predict:.0f}, "
        f"fit {timings.fit:.0f})"
    )
    if found.settings is not None and found.settings_from_model:
        named = [f"{name} {getattr(found.settings, name)}" for name in found.settings_from_model]
        out.print(f"[dim]the model's own settings: {escape(', '.join(named))}[/]")
    for warning in found.warnings:
        err.print(f"[yellow]{escape(warning)}[/]")


def _print_label(one: LabelExplanation) -> None:
    sign = "" if one.against is None else "+"
    hidden = "" if one.baseline is None else f"; {one.baseline:{sign}.3f} with everything hidden"
    out.print(
        f"[bold]{escape(_named(one.label, one.against))}[/] {one.probability:{sign}.3f}{hidden}   "
        f"fit (R2) {one.score:.2f}, stability {one.stability:.2f}"
    )
    for weight in one.weights[:_SHOWN_WEIGHTS]:
        style, word = ("green", "for") if weight.weight > 0 else ("red", "against")
        out.print(
            f"  segment {weight.segment:3d}  [{style}]{weight.weight:+.3f} {word}[/] "
            f"± {weight.std_error:.3f}"
        )


def print_check(one: Faithfulness) -> None:
    """Whether the model follows the explanation, for people."""
    result = (
        "the model follows it better than a random order"
        if one.better_than_random
        else "[yellow]no better than a random order[/]"
    )
    out.print(
        f"check: deletion {one.deletion_area:.3f} (random order {one.random_deletion_area:.3f} "
        f"± {one.random_deletion_spread:.3f}, less is better), insertion "
        f"{one.insertion_area:.3f} (random order {one.random_insertion_area:.3f} "
        f"± {one.random_insertion_spread:.3f}, more is better): {result}"
    )


def print_line(document: dict[str, Any]) -> None:
    """One image of several."""
    print_one(document, alarming="mistake", more=partial(_reasons, document))


def _reasons(document: dict[str, Any]) -> str:
    truth = f" [red](true: {escape(document['true_label'])})[/]" if document["mistake"] else ""
    reasons = "; ".join(
        f"{escape(_named(one['label'], one['against']))} {one['probability']:.3f}, "
        f"R2 {one['score']:.2f}, stability {one['stability']:.2f}"
        for one in document["explanations"]
    )
    first, *others = document["warnings"] or [""]
    more = f" (and {counted(len(others), 'more warning')})" if others else ""
    warned = f"  [yellow]warning: {escape(first)}{more}[/]" if first else ""
    return f"{truth}   {reasons}{warned}"


def _named(label: str, against: str | None) -> str:
    return label if against is None else f"{label} rather than {against}"


@contextmanager
def sample_bar() -> Iterator[Callable[[ExplanationUpdate], None]]:
    """Shows the progress and stability of one explanation on a terminal."""
    with progress_bar("samples", TextColumn("stability {task.fields[stability]}")) as bar:
        task = bar.add_task("", total=None, stability="-")
        yield lambda update: bar.update(
            task,
            completed=update.num_samples,
            total=update.max_samples,
            stability=f"{update.stability:.2f}",
        )
