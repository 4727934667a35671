"""Measures how well faces in a camera's frames are found and judged, on frames with known faces.

Frames of 640x480 are built from the real images of the folder in LIMELENS_DATA: faces of 24 to 200
pixels, one to eight a frame, over images without people, in part hidden or cut off, with noise,
blur and JPEG; and from drawn people. The same seed builds the same frames.

    LIMELENS_DATA=… python -m benchmarks.faces [--split val] [--frames 300]
        [--detector default centerface] [--only finding drawn empty quality] [--sheet frames.png]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.device.report import Row
from benchmarks.faces import degraded, frames
from benchmarks.faces.frames import HEIGHT, WIDTH, Condition, Frame, TrueFace
from benchmarks.faces.outcomes import Outcomes, is_right, outcomes
from benchmarks.faces.sources import LABELS, SPLITS, Portrait, backgrounds, data_folder, portraits
from limelens.cli.serving import default_models
from limelens.serve import Bundle, load_bundle
from limelens.serve.errors import LimelensError
from limelens.serve.faces.boxes import DEFAULT_MARGIN
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.faces.quality import QualityGate
from limelens.train.exporting.crops import MARGINS

_SIZES: Final = (24, 200)
_REQUIRED_SIZES: Final = (48, 200)
_BOUNDS: Final = (24, 32, 48, 96, 201)
_THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7)
_LEAST_PX: Final = 24
"""Smaller boxes are left out, as by default."""
_LEAST_PX_BELOW_48: Final = 16
"""Where faces of 24 pixels are looked for: their boxes may be a little smaller."""
_FRAMES_AN_HOUR: Final = 5 * 3600
_CONSOLE: Final = Console(width=150)


@dataclass(frozen=True, eq=False)
class _Setting:
    num_frames: int
    seed: int
    detectors: dict[str, FaceDetector]
    classifier: Bundle
    gate: QualityGate
    portraits: list[Portrait]
    backgrounds: list[Path]

    @property
    def margin(self) -> float:
        """What the server shows the classifier around a face."""
        crop = self.classifier.metadata.crop
        return DEFAULT_MARGIN if crop is None else crop

    @property
    def margins(self) -> tuple[float, ...]:
        return tuple(sorted({*MARGINS, self.margin}))

    def frames(self, part: int, make: Callable[[np.random.Generator], Frame]) -> Iterator[Frame]:
        """Frames that follow from the seed; each part has others."""
        for number in range(self.num_frames):
            yield make(np.random.default_rng((self.seed, part, number)))

    def pasted(self, part: int, sizes: tuple[float, float]) -> Iterator[Frame]:
        return self.frames(
            part, lambda rng: frames.pasted(rng, self.portraits, self.backgrounds, sizes)
        )

    def outcomes(
        self, found: Iterator[Frame], least_px: int, margins: Sequence[float]
    ) -> dict[str, Outcomes]:
        return outcomes(
            found, self.detectors, self.classifier,
            min_size_px=least_px, margins=margins, margin=self.margin, gate=self.gate,
        )  # fmt: skip


def main() -> None:
    """Measures and prints tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="of the face images")
    parser.add_argument("--frames", type=int, default=300, help="in each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--detector", nargs="+", default=[DEFAULT_DETECTOR], help="default, centerface or files"
    )
    parser.add_argument("--model", type=Path, default=default_models() / "facemask" / "2")
    parser.add_argument("--only", nargs="+", choices=list(_PARTS), default=list(_PARTS))
    parser.add_argument("--sheet", type=Path, help="only draw 20 of the frames, with their faces")
    arguments = parser.parse_args()
    try:
        folder = data_folder()
        faces, behind = portraits(folder, arguments.split), backgrounds(folder)
        if arguments.sheet:
            _draw_sheet(arguments.sheet, arguments.seed, faces, behind)
            return
        detectors = {Path(name).stem: load_detector(name, "cpu") for name in arguments.detector}
        classifier = load_bundle(arguments.model, "cpu")
    except LimelensError as error:
        sys.exit(str(error))
    setting = _Setting(
        arguments.frames, arguments.seed, detectors, classifier, QualityGate(), faces, behind
    )
    _CONSOLE.print(
        f"{len(faces)} faces of {arguments.split}, {len(behind)} backgrounds; "
        f"crop {setting.margin:g}; thresholds "
        + ", ".join(f"{name} {one.bundle.metadata.threshold:g}" for name, one in detectors.items())
    )
    for name in arguments.only:
        _PARTS[name](setting)


def finding(setting: _Setting) -> None:
    """What is required: faces from 48 pixels; then the same by size, condition and margin."""
    results = setting.outcomes(setting.pasted(0, _REQUIRED_SIZES), _LEAST_PX, setting.margins)
    _print_required(setting, results)
    _print_thresholds(results, _REQUIRED_SIZES)
    table = _table("condition, from 48 px", results, ("found", "right"))
    for condition in Condition:
        chosen = {one for one in _known(results) if one.condition is condition}
        table.add_row(condition, *_cells(results, chosen, setting.margin))
    _CONSOLE.print(table)
    _print_margins(setting, results)
    _print_issues(results, setting.margin)
    wide = setting.outcomes(setting.pasted(1, _SIZES), _LEAST_PX_BELOW_48, [setting.margin])
    _print_sizes(setting, wide, "real faces")


def drawn(setting: _Setting) -> None:
    """The same for drawn people."""
    results = setting.outcomes(
        setting.frames(2, lambda rng: frames.drawn(rng, _SIZES)), _LEAST_PX_BELOW_48,
        [setting.margin],
    )  # fmt: skip
    _print_sizes(setting, results, "drawn faces")


def empty(setting: _Setting) -> None:
    """Frames without anybody: false faces, and which of them alert if each frame counts alone."""
    results = setting.outcomes(
        setting.frames(3, lambda rng: frames.empty(rng, setting.backgrounds)), _LEAST_PX, []
    )
    alerts = setting.classifier.metadata.alert_labels
    table = _table(
        f"threshold, {setting.num_frames} frames without anybody, each another one",
        results,
        ("false a frame", "alerts a frame", "alerts an hour"),
    )
    thresholds = {*_THRESHOLDS, *(result.threshold for result in results.values())}
    for threshold in sorted(thresholds):
        cells = []
        for result in results.values():
            false = [one for one in result.false_faces if one.score >= threshold]
            share = sum(one.label in alerts for one in false) / result.num_frames
            cells += [
                f"{len(false) / result.num_frames:.4f}",
                f"{share:.4f}",
                f"{share * _FRAMES_AN_HOUR:.0f}",
            ]
        table.add_row(f"{threshold:g}", *cells)
    _CONSOLE.print(table)


def quality(setting: _Setting) -> None:
    """How far faces may be degraded until the model errs."""
    faces, bundle, margin = setting.portraits, setting.classifier, setting.margin
    by_blur, by_sharpness = degraded.blurred(faces, bundle, margin)
    tables = {
        "smaller": degraded.smaller(faces, bundle, margin),
        "blurred, 96 px": by_blur,
        "the blurred ones by sharpness": by_sharpness,
        "cut off by the edge, 96 px": degraded.cut_off(faces, bundle, margin),
    }
    for title, degrees in tables.items():
        table = Table(f"known faces, {title}", box=MARKDOWN)
        for column in ("faces", "right", "of the worse label"):
            table.add_column(column, justify="right")
        for one in degrees:
            table.add_row(one.name, str(one.num_faces), f"{one.accuracy:.3f}", f"{one.lower:.3f}")
        _CONSOLE.print(table)


_PARTS: Final[dict[str, Callable[[_Setting], None]]] = {
    "finding": finding,
    "drawn": drawn,
    "empty": empty,
    "quality": quality,
}


def _table(title: str, results: dict[str, Outcomes], columns: Sequence[str]) -> Table:
    table = Table(title, box=MARKDOWN)
    for name in results:
        for column in columns:
            table.add_column(f"{name}: {column}", justify="right")
    return table


def _known(results: dict[str, Outcomes]) -> list[TrueFace]:
    """The known faces, which are the same for each detector."""
    return [one.face for one in next(iter(results.values())).faces]


def _cells(results: dict[str, Outcomes], chosen: Collection[TrueFace], margin: float) -> list[str]:
    """For each detector: how many of the chosen faces were found, and of these judged right."""
    cells = []
    for result in results.values():
        faces = [one for one in result.faces if one.face in chosen]
        found = result.found(faces)
        right = [one for one in found if is_right(one, margin)]
        cells += [_share(len(found), len(faces)), _share(len(right), len(found))]
    return cells


def _share(count: int, total: int) -> str:
    return f"{count / total:.3f} of {total}" if total else ""


def _print_required(setting: _Setting, results: dict[str, Outcomes]) -> None:
    table = Table("faces from 48 px", "required", "wanted", box=MARKDOWN)
    for name in results:
        table.add_column(name, justify="right")
        table.add_column("met")
    rows: dict[str, list[Row]] = {}
    for result in results.values():
        found = result.found()
        judged = [one for one in found if one.issue is None]
        measured = {
            "found": _more(len(found) / max(1, len(result.faces)), 0.95, 0.98),
            "… with a mask": Row("", _found_share(result, masked=True)),
            "… bare": Row("", _found_share(result, masked=False)),
            "false faces a frame": Row(
                "", result.false_per_frame(), required=0.02, wanted=0.005, bounded="measured"
            ),
            "decision right, of found": _more(
                sum(one.issue is None and is_right(one, setting.margin) for one in found)
                / max(1, len(found)),
                0.94,
                0.96,
            ),
            "decision right, of judged": Row(
                "", sum(is_right(one, setting.margin) for one in judged) / max(1, len(judged))
            ),
            "not judged, of found": Row("", 1 - len(judged) / max(1, len(found))),
        }
        for what, row in measured.items():
            rows.setdefault(what, []).append(row)
    for what, cells in rows.items():
        shown = (text for row in cells for text in (f"{row.measured:.4f}", row.result))
        table.add_row(what, *cells[0].bounds, *shown)
    _CONSOLE.print(table)


def _more(value: float, required: float, wanted: float) -> Row:
    return Row("", value, required=required, wanted=wanted, bounded="measured", more_is_better=True)


def _found_share(result: Outcomes, *, masked: bool) -> float:
    faces = [one for one in result.faces if (one.face.label == "with_mask") == masked]
    return len(result.found(faces)) / max(1, len(faces))


def _print_thresholds(results: dict[str, Outcomes], sizes: tuple[float, float]) -> None:
    table = _table(f"threshold, faces from {sizes[0]:g} px", results, ("found", "false a frame"))
    for threshold in _THRESHOLDS:
        cells = []
        for result in results.values():
            count = sum(one.score >= threshold for one in result.faces)
            cells += [
                f"{count / max(1, len(result.faces)):.3f}",
                f"{result.false_per_frame(threshold):.3f}",
            ]
        table.add_row(f"{threshold:g}", *cells)
    _CONSOLE.print(table)


def _print_margins(setting: _Setting, results: dict[str, Outcomes]) -> None:
    table = _table("margin around the box, from 48 px", results, ("right, of found",))
    for margin in setting.margins:
        cells = []
        for result in results.values():
            found = result.found()
            cells.append(f"{sum(is_right(one, margin) for one in found) / max(1, len(found)):.4f}")
        table.add_row(f"{margin:g}", *cells)
    _CONSOLE.print(table)


def _print_issues(results: dict[str, Outcomes], margin: float) -> None:
    table = _table("found, from 48 px", results, ("faces", "right if judged"))
    reasons = sorted({str(one.issue) for result in results.values() for one in result.found()})
    for reason in reasons:
        cells = []
        for result in results.values():
            faces = [one for one in result.found() if str(one.issue) == reason]
            right = sum(is_right(one, margin) for one in faces)
            cells += [str(len(faces)), f"{right / len(faces):.3f}" if faces else ""]
        table.add_row("judged" if reason == "None" else reason, *cells)
    abstained = [
        sum(one.issue is None and one.labels[margin] is None for one in result.found())
        for result in results.values()
    ]
    table.add_row("the model abstained", *(text for n in abstained for text in (str(n), "")))
    _CONSOLE.print(table)


def _print_sizes(setting: _Setting, results: dict[str, Outcomes], title: str) -> None:
    table = _table(title, results, ("found", "right"))
    for label in LABELS:
        for low, high in pairwise(_BOUNDS):
            chosen = {
                one for one in _known(results) if one.label == label and low <= one.size_px < high
            }
            cells = _cells(results, chosen, setting.margin)
            table.add_row(f"{label}, {low} to {high} px", *cells)
    false = [
        text for result in results.values() for text in (f"{result.false_per_frame():.4f}", "")
    ]
    table.add_row("false faces a frame", *false)
    _CONSOLE.print(table)


def _draw_sheet(path: Path, seed: int, faces: Sequence[Portrait], behind: Sequence[Path]) -> None:
    """Draws frames with their known faces: pasted ones, and drawn ones in the last row."""
    across, size = 5, (WIDTH * 3 // 5, HEIGHT * 3 // 5)
    sheet = Image.new("RGB", (across * size[0], 4 * size[1]))
    for number in range(4 * across):
        rng = np.random.default_rng((seed, 0, number))
        is_drawn = number >= 3 * across
        frame = frames.drawn(rng) if is_drawn else frames.pasted(rng, faces, behind)
        image = Image.fromarray(frame.pixels)
        draw = ImageDraw.Draw(image)
        for face in frame.faces:
            draw.rectangle(
                face.box, outline="lime" if face.label == "with_mask" else "red", width=2
            )
        sheet.paste(image.resize(size), (number % across * size[0], number // across * size[1]))
    sheet.save(path)


if __name__ == "__main__":
    main()
