"""A page of explained images, mistakes first: one HTML file that needs nothing else.

Knows results and files, and fills the template `page.html.j2`. Makes no calls.
"""

from __future__ import annotations

import base64
import bisect
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from limelens.explain.drawing.colours import Palette, names
from limelens.serve.client.results import ServedExplanation
from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.serve.files import write_whole
from limelens.serve.image import read_image
from limelens.serve.tools.explain_report.explain_many import ExplainedImage
from limelens.serve.tools.faces.face_blurrer import FaceBlurrer
from limelens.serve.tools.faces.redrawing import draw_overlay

_MAX_DRAWN: Final = 420
"""Longer side of an image on the page, in pixels."""
_MOST_SHOWN: Final = 500
_MOST_LISTED: Final = 200


@dataclass(frozen=True)
class _Card:
    """One image on the page."""

    rank: tuple[float, ...]
    name: str
    image: str
    overlay: str
    result: str
    label: str
    probability: float
    true_label: str | None
    reasons: Sequence[tuple[str, float, float | None, float, float]]
    warnings: Sequence[str]


class Gallery:
    """The page while it fills; it keeps no large files of the images added.

    Names of images are relative to the base, if they lie below it. With a blurrer, explanations
    come with segments in place of overlays, and every face is blurred except the one that is
    explained.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """

    def __init__(
        self,
        title: str,
        base: Path | None = None,
        palette: Palette = "green-red",
        blurrer: FaceBlurrer | None = None,
    ) -> None:
        self._palette = palette
        self._blurrer = blurrer
        try:
            from jinja2 import Environment, FileSystemLoader, StrictUndefined
        except ImportError as error:
            raise MissingExtraError(
                f"pages need limelens[explain] ({error}); pip install 'limelens[explain]'"
            ) from error
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["percent"] = lambda value: f"{value:.1%}"
        self._environment.filters["number"] = lambda value: f"{value:.2f}"
        self._title = title
        self._base = base
        self._cards: list[_Card] = []
        self._refused: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()
        self._stabilities: list[float] = []
        self._model = ""

    def add(self, one: ExplainedImage) -> None:
        """Puts one image with its overlay on the page, or among those that were refused."""
        name = _relative(one.file.path, self._base)
        if one.explanation is None or one.prediction is None:
            self._refused.append((name, one.error))
            return
        explanation, prediction = one.explanation, one.prediction
        self._model = f"{explanation.model.name} version {explanation.model.version}"
        self._stabilities.append(explanation.explanations[0].stability)
        is_abstained = not (prediction.label or prediction.labels)
        self._counts.update(
            explained=1,
            warned=bool(explanation.warnings),
            abstained=is_abstained,
            labeled=one.is_mistake is not None,
            mistakes=one.is_mistake is True,
        )
        best = prediction.scores[0]
        # Mistakes, the most confident first; abstentions; then the rest, the least confident first.
        if one.is_mistake:
            order, result = (0.0, -best.probability), "mistake"
        elif is_abstained:
            order, result = (1.0, best.probability), "abstained"
        else:
            order, result = (2.0, best.probability), "right" if one.is_mistake is False else ""
        rank = (*order, self._counts["explained"])
        if len(self._cards) >= _MOST_SHOWN and rank >= self._cards[-1].rank:
            return
        image, overlay = self._images(one.file.path, explanation)
        card = _Card(
            rank=rank,
            name=name,
            image=image,
            overlay=overlay,
            result=result,
            label=", ".join(prediction.labels) or prediction.label or best.label,
            probability=best.probability,
            true_label=one.file.true_label,
            reasons=[
                (
                    why.label if why.against is None else f"{why.label} rather than {why.against}",
                    why.probability,
                    why.baseline,
                    why.score,
                    why.stability,
                )
                for why in explanation.explanations
            ],
            warnings=explanation.warnings,
        )
        bisect.insort(self._cards, card, key=lambda one: one.rank)
        del self._cards[_MOST_SHOWN:]

    def _images(self, path: Path, explanation: ServedExplanation) -> tuple[str, str]:
        """The image and its overlay; empty if it cannot be shown."""
        try:
            pixels = read_image(path.read_bytes())
        except (OSError, LimelensError):  # deleted in the meantime
            pixels = None
        if self._blurrer is None:
            with Image.open(io.BytesIO(explanation.explanations[0].overlay_png)) as drawn:
                overlay = drawn.convert("RGB")
            return "" if pixels is None else _data_url(Image.fromarray(pixels)), _data_url(overlay)
        if pixels is None:
            return "", ""
        pixels = self._blurrer.blur(pixels, explanation.face)
        redrawn = draw_overlay(pixels, explanation, explanation.explanations[0], self._palette)
        return _data_url(Image.fromarray(pixels)), _data_url(Image.fromarray(redrawn))

    def write(self, path: Path) -> None:
        """Writes the page to an HTML file."""
        in_favour, against = names(self._palette)
        page = self._environment.get_template("page.html.j2").render(
            title=self._title,
            in_favour=in_favour,
            against=against,
            model=self._model,
            headline=self._headline(),
            cards=self._cards,
            num_explained=self._counts["explained"],
            has_truth=self._counts["labeled"] > 0,
            refused=self._refused[:_MOST_LISTED],
            num_refused=len(self._refused),
            written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        )
        write_whole(path, page)

    def _headline(self) -> list[tuple[str, str, str]]:
        """Name, value and a note of each number at the top."""
        counts = self._counts
        found = [("images explained", f"{counts['explained']}", "")]
        if self._refused:
            found.append(("not explained", f"{len(self._refused)}", "listed at the end"))
        if counts["labeled"]:
            share = counts["mistakes"] / counts["labeled"]
            found.append(("mistakes", f"{counts['mistakes']}", f"{share:.1%} of those decided"))
        if counts["abstained"]:
            found.append(("abstained", f"{counts['abstained']}", "below the threshold"))
        if self._stabilities:
            median = float(np.median(self._stabilities))
            found.append(("stability, half of them", f"{median:.2f}", "or more; 1 is certain"))
            found.append(("with warnings", f"{counts['warned']}", ""))
        return found


def _data_url(image: Image.Image) -> str:
    image.thumbnail((_MAX_DRAWN, _MAX_DRAWN), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _relative(path: Path, base: Path | None) -> str:
    is_below = base is not None and path.is_relative_to(base)
    return os.fspath(path.relative_to(base) if is_below and base is not None else path)
