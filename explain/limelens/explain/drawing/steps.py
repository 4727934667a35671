"""The steps of one explanation, drawn on one sheet.

The image and its numbered segments, perturbed samples, the samples nearest to the image and their
weights, the segments' weights, and the overlay. Knows layout and text, and recreates the samples'
images from the explanation. Does not know the model.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import INK, PALE_INK, PAPER, Palette, signs
from limelens.explain.drawing.fonts import font_for
from limelens.explain.drawing.overlay import overlay
from limelens.explain.drawing.text import title_of, write
from limelens.explain.explanation import Explanation, LabelExplanation
from limelens.explain.image import as_rgb
from limelens.explain.sampling.design import distances
from limelens.explain.sampling.perturbation import Perturbation, perturbation
from limelens.explain.segmentation.segments import known, stretched
from limelens.explain.settings import Distance

_WIDTH, _MARGIN, _GAP = 1360, 36, 24
_LARGE, _SMALL = 416, 194  # longer side of a panel
_NUM_SAMPLES, _NUM_NEAREST, _NUM_FEATURES = 6, 3, 8
_TITLE, _HEADING, _TEXT, _NUMBER = 28, 21, 16, 15
_LINE = 1.4
_RULE, _BORDER, _OUTLINE = (215, 220, 226), (255, 214, 0), (0, 0, 0)
_MAX_NUMBERED = 250  # more numbers would hide the image

_FITS = {
    "lime": "A linear model is fitted to the samples, each counting by its weight",
    "kernel_shap": "Shapley values are fitted to the samples",
    "occlusion": "A segment's weight is what the probability loses when it is hidden",
    "rise": "A segment's weight is the mean probability with it, less that without it",
}


def steps(
    image: Any,
    explanation: Explanation,
    one: LabelExplanation | None = None,
    *,
    label_name: str | None = None,
    against_name: str | None = None,
    distance: Distance = "cosine",
    palette: Palette = "green-red",
) -> NDArray[np.uint8]:
    """The steps of an explanation on one sheet.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8, the image that was explained.
        explanation: Its explanation.
        one: The label or the contrast to show; unset: the first.
        label_name: The label's name, in any script that a font on the system has; unset: its
            number.
        against_name: The same for the label that a contrast subtracts.
        distance: The one that the explanation used.
        palette: "green-red", or "blue-orange" for colour-blind readers.

    Returns:
        `(H', 1360, 3)` uint8 RGB.

    Raises:
        InvalidArgumentError: The image is not of the explanation's size, or an unknown palette.
    """
    pixels = as_rgb(image, size=explanation.image_size)
    one = one or explanation.explanations[0]
    samples = explanation.samples
    predicted = samples.probabilities[:, one.label].astype(np.float64)
    if one.against is not None:
        predicted = predicted - samples.probabilities[:, one.against]
    perturbed = perturbation_of(pixels, explanation)

    def sample(visible: NDArray[np.bool_], row: int) -> Image.Image:
        return Image.fromarray(perturbed.images(visible[np.newaxis], row)[0])

    away = distances(samples.visible, distance)
    sheet = _Sheet()
    sheet.title(
        title_of(one, label_name, against_name),
        f"{explanation.num_samples} samples, {explanation.num_segments} segments, "
        f"method {samples.method}",
    )

    sheet.heading(1, f"The image is cut into {explanation.num_segments} segments")
    numbered = _numbered(pixels, explanation.segments, samples.columns)
    hidden = sample(np.zeros(samples.columns.size, dtype=np.bool_), 0)
    whole = Image.fromarray(pixels)
    panels = [(whole, "what the model sees"), (numbered, "its segments")]
    left = f": {one.baseline:.3f}" if one.baseline is not None else ""
    panels.append((hidden, f"with every segment hidden{left}"))
    sheet.panels([(panel, [text]) for panel, text in panels], _LARGE)

    alone = samples.method == "occlusion"
    how = "Each segment is hidden alone" if alone else "Segments are hidden at random"
    sheet.heading(2, f"{how}, and the model predicts every sample")
    typical = [
        (sample(samples.visible[row], row), [f"sample {row}", f"predicted {predicted[row]:.3f}"])
        for row in _typical(samples.visible)
    ]
    sheet.panels(typical, _SMALL)

    counts = ": the nearer, the more a sample counts" if samples.method == "lime" else ""
    sheet.heading(3, f"The samples nearest to the image{counts}")
    sheet.panels(
        [
            (
                sample(samples.visible[row], row),
                [
                    f"sample {row}",
                    f"distance {away[row]:.3f}",
                    f"weight {samples.weights[row]:.3f}",
                    f"predicted {predicted[row]:.3f}",
                    f"{np.count_nonzero(samples.visible[row])} of {explanation.num_segments} shown",
                ],
            )
            for row in _nearest(samples.visible, away)
        ],
        _SMALL,
        beside=True,
    )

    sheet.heading(4, f"{_FITS[samples.method]}: fit (R2) {one.score:.2f}")
    bars = _bars(one, palette)
    drawn = overlay(pixels, explanation.segments, one, palette=palette)
    sheet.bars_and_overlay(bars, Image.fromarray(drawn), one.stability)
    return sheet.finished()


def perturbation_of(pixels: NDArray[np.uint8], explanation: Explanation) -> Perturbation:
    """Recreates the images of the samples.

    Args:
        pixels: `(H, W, 3)` uint8, the image that was explained.
        explanation: Its explanation.
    """
    return perturbation(
        pixels,
        known(explanation.segments, explanation.samples.columns),
        explanation.hide,
        num_samples=explanation.num_samples,
        sampling=explanation.sampling,
        seed=explanation.seed or 0,
        references=explanation.references,
    )


def _typical(visible: NDArray[np.bool_]) -> list[int]:
    """The first samples that show some segments and hide others."""
    num_visible = np.count_nonzero(visible, axis=1)
    mixed = np.flatnonzero((num_visible > 0) & (num_visible < visible.shape[1]))
    chosen = mixed if mixed.size else np.arange(visible.shape[0])
    return [int(row) for row in chosen[:_NUM_SAMPLES]]


def _nearest(visible: NDArray[np.bool_], away: NDArray[np.float64]) -> list[int]:
    """The nearest distinct samples, except the image itself."""
    hides = np.flatnonzero(~visible.all(axis=1))
    found: list[int] = []
    seen: set[bytes] = set()
    for row in hides[np.argsort(away[hides], kind="stable")].tolist():
        key = visible[row].tobytes()
        if key not in seen:
            seen.add(key)
            found.append(row)
        if len(found) == _NUM_NEAREST:
            break
    return found


def _numbered(
    pixels: NDArray[np.uint8], segments: NDArray[np.int32], ids: NDArray[np.int32]
) -> Image.Image:
    """The segments' borders and ids, large enough to be read."""
    width, height = _fitting(pixels.shape[1], pixels.shape[0], _LARGE)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    labels = stretched(segments, height, width)
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    faded = np.asarray(image).astype(np.float32)
    faded += (255.0 - faded) * 0.15
    faded[edge] = _BORDER
    drawn = Image.fromarray(np.rint(faded).astype(np.uint8))
    if ids.size > _MAX_NUMBERED:
        return drawn
    pen = ImageDraw.Draw(drawn)
    size = _NUMBER if ids.size <= 100 else _NUMBER - 4
    font, _ = font_for("0123456789", size)
    for segment in ids.tolist():
        y, x = np.nonzero(labels == segment)
        if y.size == 0:
            continue
        # The segment's pixel nearest to its middle, which may be outside a bent segment.
        place = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
        reach = font.getlength(str(segment)) / 2 + 3
        at = min(max(float(x[place]), reach), width - reach)
        below = min(max(float(y[place]), size * 0.6), height - size * 0.6)
        pen.text((at, below), str(segment), PAPER, font, "mm", stroke_width=2, stroke_fill=_OUTLINE)
    return drawn


def _bars(one: LabelExplanation, palette: Palette) -> Image.Image:
    """The heaviest segments' weights as bars with their standard errors."""
    chosen = one.weights[:_NUM_FEATURES]
    width, row = _WIDTH - 2 * _MARGIN - _LARGE - 2 * _GAP, 42
    image = Image.new("RGB", (width, max(1, len(chosen)) * row), PAPER)
    pen = ImageDraw.Draw(image)
    in_favour, against = signs(palette)
    largest = max((abs(w.weight) + w.std_error for w in chosen), default=0.0) or 1.0
    style = ".3f" if largest >= 0.02 else ".1e"
    left, right = 130, width - 190
    has_both = any(w.weight < 0 for w in chosen)
    zero = (left + right) // 2 if has_both else left
    scale = ((right - left) / 2 if has_both else right - left) / largest
    for place, weight in enumerate(chosen):
        top, middle = place * row + 8, place * row + row // 2
        end = zero + weight.weight * scale
        colour = in_favour if weight.weight > 0 else against
        pen.rectangle((min(zero, end), top, max(zero, end), top + row - 17), fill=colour)
        error = weight.std_error * scale
        pen.line((end - error, middle, end + error, middle), fill=INK, width=2)
        write(pen, (0, middle), f"segment {weight.segment}", _TEXT, anchor="lm")
        value = f"{weight.weight:+{style}} ± {weight.std_error:{style}}"
        write(pen, (right + 16, middle), value, _TEXT, anchor="lm")
    pen.line((zero, 0, zero, image.height), fill=PALE_INK)
    return image


class _Sheet:
    """A page that grows downwards."""

    def __init__(self) -> None:
        self._blocks: list[Image.Image] = []

    def title(self, text: str, below: str) -> None:
        _, pen = self._block(round(_LINE * (_TITLE + _TEXT)))
        write(pen, (_MARGIN, 0), text, _TITLE, room=_WIDTH - 2 * _MARGIN)
        write(pen, (_MARGIN, round(_LINE * _TITLE)), below, _TEXT, PALE_INK)

    def heading(self, number: int, text: str) -> None:
        _, pen = self._block(round(_LINE * _HEADING) + 2 * _GAP)
        pen.line((_MARGIN, _GAP // 2, _WIDTH - _MARGIN, _GAP // 2), fill=_RULE, width=2)
        write(pen, (_MARGIN, _GAP), f"{number}.  {text}", _HEADING)

    def panels(
        self, panels: list[tuple[Image.Image, list[str]]], longest: int, *, beside: bool = False
    ) -> None:
        """Images in a row, their lines of text below or beside each."""
        if not panels:
            return
        scaled = [(_scaled(image, longest), lines) for image, lines in panels]
        line = round(_LINE * _TEXT)
        tallest = max(image.height for image, _ in scaled)
        most = max(len(lines) for _, lines in scaled)
        block, pen = self._block(max(tallest, most * line) if beside else tallest + 6 + most * line)
        step = (_WIDTH - 2 * _MARGIN + _GAP) // (_NUM_NEAREST if beside else len(scaled))
        if not beside:
            step = min(step, longest + _GAP)
        for place, (image, lines) in enumerate(scaled):
            left = _MARGIN + place * step
            block.paste(image, (left, 0))
            for count, text in enumerate(lines):
                if beside:
                    at = (left + image.width + 14, count * line)
                else:
                    at = (left, image.height + 6 + count * line)
                write(pen, at, text, _TEXT, INK if count == 0 else PALE_INK)

    def bars_and_overlay(self, bars: Image.Image, drawn: Image.Image, stability: float) -> None:
        image = _scaled(drawn, _LARGE)
        line = round(_LINE * _TEXT)
        block, pen = self._block(max(bars.height, image.height + 6 + line))
        block.paste(bars, (_MARGIN, 0))
        left = _WIDTH - _MARGIN - _LARGE
        block.paste(image, (left, 0))
        text = f"5.  The heaviest segments; stability {stability:.2f}"
        write(pen, (left, image.height + 6), text, _TEXT)

    def finished(self) -> NDArray[np.uint8]:
        margin = np.full((_MARGIN, _WIDTH, 3), PAPER, dtype=np.uint8)
        return np.concatenate([margin, *map(np.asarray, self._blocks), margin])

    def _block(self, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        block = Image.new("RGB", (_WIDTH, height), PAPER)
        self._blocks.append(block)
        return block, ImageDraw.Draw(block)


def _scaled(image: Image.Image, longest: int) -> Image.Image:
    return image.resize(_fitting(*image.size, longest), Image.Resampling.BICUBIC)


def _fitting(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
