"""The image files of `limelens explain`: drawn anew on an image without faces, steps, stacks."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.cli.terminal.faces import as_png
from limelens.serve.image.writing import write_image

if TYPE_CHECKING:
    from limelens.explain.drawing.colours import Palette
    from limelens.serve.client import ExplainArguments
    from limelens.serve.client.in_process import LocalClient
    from limelens.serve.client.results import LabelExplanation, ServedExplanation
    from limelens.serve.explaining.rendering import RenderedExplanation


def palette_of(arguments: ExplainArguments) -> Palette:
    """The colours of renderings, in the words of `limelens.explain`."""
    return "blue-orange" if arguments["palette"] == "blue_orange" else "green-red"


def redrawn(
    found: ServedExplanation,
    pixels: NDArray[np.uint8],
    kinds: Collection[str],
    palette: Palette,
) -> ServedExplanation:
    """The explanation with its overlays and heat maps, those that are wanted, on another image."""
    from limelens.serve.tools.faces.redrawing import draw_heat_map, draw_overlay

    def png(kind: str, draw: Callable[..., NDArray[np.uint8]], one: LabelExplanation) -> bytes:
        return as_png(draw(pixels, found, one, palette)) if kind in kinds else b""

    return replace(
        found,
        explanations=tuple(
            replace(
                one,
                overlay_png=png("overlay", draw_overlay, one),
                heat_map_png=png("heat_map", draw_heat_map, one),
            )
            for one in found.explanations
        ),
    )


def draw_steps(
    local: LocalClient, rendered: RenderedExplanation, arguments: ExplainArguments, path: Path
) -> None:
    """Writes the sheet of `--steps`: how the explanation came about."""
    from limelens.explain import steps

    why, labels = rendered.label_explanations[0], local.bundle.labels
    sheet = steps(
        rendered.pixels,
        rendered.explanation,
        why,
        label_name=labels[why.label],
        against_name=None if why.against is None else labels[why.against],
        distance=arguments["distance"] or "cosine",
        palette=palette_of(arguments),
    )
    write_image(path, sheet)


def stacked(found: ServedExplanation, kind: str) -> bytes:
    """The rendering of the explained label; those of several labels, one above the other."""
    files = [getattr(one, kind) for one in found.explanations]
    if len(files) == 1:
        return bytes(files[0])
    images = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            images.append(np.asarray(image.convert("RGB")))
    written = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(written, "PNG")
    return written.getvalue()
