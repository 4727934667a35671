"""Explanations on the terminal and as JSON.

It knows what they say, and nothing of how they were asked for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.progress import TextColumn

from limelens.cli.classifying import print_one
from limelens.cli.terminal.printing import err, out, progress_bar

if TYPE_CHECKING:
    from limelens.explain import Faithfulness
    from limelens.serve.client.results import ExplanationUpdate, LabelExplanation, ServedExplanation
    from limelens.serve.tools.explain_report.bulk import ExplainedImage

_SHOWN_WEIGHTS: Final = 5


def image_document(one: ExplainedImage) -> dict[str, Any]:
    """What became of one image of several, as JSON."""
    if one.explanation is None or one.prediction is None:
        return {"path": str(one.place.path), "error": one.error}
    return {
        **explanation_document(one.place.path, one.explanation),
        "decision": one.prediction.decision.value,
        "label": one.prediction.label,
        "labels": list(one.prediction.labels),
        "true_label": one.place.true_label,
        "mistake": one.is_mistake,
    }


def explanation_document(image: Path, found: ServedExplanation) -> dict[str, Any]:
    """An explanation as `--json` prints it."""
    return {
        "path": str(image),
        "model": found.model.name,
        "version": found.model.version,
        "provider": found.model.provider,
        "method": found.method,
        "num_segments": found.num_segments,
        "num_samples": found.num_samples,
        "seed": found.seed,
        "warnings": list(found.warnings),
        "explanations": [
            {
                "label": one.label,
                "against": one.against,
                "probability": one.probability,
                "intercept": one.intercept,
                "local_prediction": one.local_prediction,
                "score": one.score,
                "stability": one.stability,
                "weights": [
                    {
                        "segment": weight.segment,
                        "weight": weight.weight,
                        "std_error": weight.std_error,
                    }
                    for weight in one.weights
                ],
            }
            for one in found.explanations
        ],
        "timings_ms": {
            "segment": found.timings_ms.segment,
            "predict": found.timings_ms.predict,
            "fit": found.timings_ms.fit,
            "total": found.timings_ms.total,
        },
    }


def print_explanation(image: Path, found: ServedExplanation) -> None:
    """One image's explanation, for people."""
    model = f"{escape(found.model.name)} version {found.model.version}"
    out.print(f"{escape(str(image))}, explained on {model} ({found.model.provider})")
    for one in found.explanations:
        _print_label(one)
    timings = found.timings_ms
    out.print(
        f"{found.num_segments} segments, {found.num_samples} samples, seed {found.seed}; "
        f"{timings.total:.0f} ms (segments {timings.segment:.0f}, model {timings.predict:.0f}, "
        f"fit {timings.fit:.0f})"
    )
    for warning in found.warnings:
        err.print(f"[yellow]{escape(warning)}[/]")


def _print_label(one: LabelExplanation) -> None:
    sign = "" if one.against is None else "+"
    out.print(
        f"[bold]{escape(_named(one.label, one.against))}[/] {one.probability:{sign}.3f}   "
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
    verdict = (
        "the model follows it better than a random order"
        if one.better_than_random
        else "[yellow]no better than a random order[/]"
    )
    out.print(
        f"check: deletion {one.deletion_area:.3f} (random order {one.random_deletion_area:.3f} "
        f"± {one.random_deletion_spread:.3f}, less is better), insertion "
        f"{one.insertion_area:.3f} (random order {one.random_insertion_area:.3f} "
        f"± {one.random_insertion_spread:.3f}, more is better): {verdict}"
    )


def print_line(answer: dict[str, Any]) -> None:
    """One image of several."""
    print_one(answer, alarming="mistake", more=partial(_reasons, answer))


def _reasons(answer: dict[str, Any]) -> str:
    truth = f" [red](true: {escape(answer['true_label'])})[/]" if answer["mistake"] else ""
    reasons = "; ".join(
        f"{escape(_named(one['label'], one['against']))} {one['probability']:.3f}, "
        f"R2 {one['score']:.2f}, stability {one['stability']:.2f}"
        for one in answer["explanations"]
    )
    count = len(answer["warnings"])
    warned = f"  [yellow]{count} warning{'s' if count > 1 else ''}[/]" if count else ""
    return f"{truth}   {reasons}{warned}"


def _named(label: str, against: str | None) -> str:
    return label if against is None else f"{label} rather than {against}"


class SampleBar:
    """Shows how far one explanation is, and how stable, on a terminal."""

    def __init__(self) -> None:
        self._bar = progress_bar("samples", TextColumn("stability {task.fields[stability]}"))
        self._task = self._bar.add_task("", total=None, stability="-")

    def __enter__(self) -> SampleBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def told(self, update: ExplanationUpdate) -> None:
        """Shows what an update says."""
        self._bar.update(
            self._task,
            completed=update.num_samples,
            total=update.max_samples,
            stability=f"{update.stability:.2f}",
        )
