"""Measures a detector: which faces it finds, by size, and what it takes for one.

Knows boxes and scores; does not know what found them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.faces.boxes import overlaps
from limelens.train.detection.frames import Boxes, Find, Frame

SIZES: Final = ((24.0, 32.0), (32.0, 48.0), (48.0, 96.0), (96.0, 201.0))
"""Bands of the longer side of a face's box in pixels."""
ENOUGH: Final = 0.3
"""Intersection over union from which a box is that of a face: detectors differ in tightness."""
_MEETS: Final = 0.2
"""The same, from which a box that found nothing is about a face or something unsure."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What a detector made of some frames.

    Args:
        sizes: `(N,)` longer side of each face in pixels.
        masked: `(N,)` bool: whether it wears a mask.
        scores: `(N,)` score of the box that found it, 0 if none did.
        false_scores: `(M,)` scores of boxes without a face.
        num_frames: How many frames.
    """

    sizes: NDArray[np.float32]
    masked: NDArray[np.bool_]
    scores: NDArray[np.float32]
    false_scores: NDArray[np.float32]
    num_frames: int

    def recall(
        self, threshold: float, low: float = 0, high: float = np.inf, masked: bool | None = None
    ) -> float:
        """The share of faces of these sizes, masked or bare or both, that was found."""
        chosen = (self.sizes >= low) & (self.sizes < high)
        if masked is not None:
            chosen &= self.masked == masked
        return float((self.scores[chosen] >= threshold).mean()) if chosen.any() else float("nan")

    def false_per_frame(self, threshold: float) -> float:
        """Boxes without a face for each frame."""
        return float((self.false_scores >= threshold).sum()) / self.num_frames


def examine(find: Find, frames: Iterable[Frame]) -> Findings:
    """Runs a detector on frames whose faces are known."""
    sizes, masked, scores, false_scores, num_frames = [], [], [], [], 0
    for frame in frames:
        num_frames += 1
        boxes, found = find(frame.image)
        matched = match(boxes, found, frame.faces)
        is_other = ~np.isin(np.arange(len(boxes)), matched)
        # A second box for a face that was found is a mistake as well.
        is_again = (overlaps(boxes, frame.faces) >= _MEETS).any(axis=1)
        is_unsure = (overlaps(boxes, frame.unsure) >= _MEETS).any(axis=1)
        false_scores.append(found[is_other & (is_again | ~is_unsure)])
        sizes.append((frame.faces[:, 2:] - frame.faces[:, :2]).max(axis=1, initial=0))
        masked.append(frame.masked)
        scores.append(np.where(matched >= 0, np.append(found, 0)[matched], 0))
    return Findings(
        np.concatenate(sizes), np.concatenate(masked), np.concatenate(scores),
        np.concatenate(false_scores), num_frames,
    )  # fmt: skip


def match(boxes: Boxes, scores: NDArray[np.float32], faces: Boxes) -> NDArray[np.intp]:
    """`(F,)` which box found each face, -1 if none; best scores first, each box once."""
    result = np.full(len(faces), -1)
    shares = overlaps(boxes, faces)
    for number in np.argsort(-scores, kind="stable"):
        free = np.where(result < 0, shares[number], 0)
        if len(free) and free.max() >= ENOUGH:
            result[int(free.argmax())] = number
    return result


def choose_threshold(findings: Sequence[Findings], most_false: float) -> float:
    """The lowest score at which no findings have more false boxes a frame than allowed.

    Scores from 0.2 to 0.95 are tried; if all lead to more false boxes, it is the last.
    """
    candidates = [hundredths / 100 for hundredths in range(20, 96)]
    for threshold in candidates:
        if all(found.false_per_frame(threshold) <= most_false for found in findings):
            return threshold
    return candidates[-1]


def table(findings: Sequence[tuple[str, Findings, float]]) -> str:
    """Recall by size and false boxes of some detectors at their thresholds, as Markdown."""
    head = ["detector", *(f"{low:.0f} to {high:.0f} px" for low, high in SIZES)]
    head += ["from 48 px", "masked", "bare", "false a frame"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found, threshold in findings:
        cells = [found.recall(threshold, low, high) for low, high in SIZES]
        cells += [found.recall(threshold, 48, masked=masked) for masked in (None, True, False)]
        cells.append(found.false_per_frame(threshold))
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)
