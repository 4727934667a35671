"""Measures which changes of images are called drift, from how many images.

Half of the images of train is the reference, 1,000 of the others are changed: darker, blurred,
shifted and so on, in the size that the model sees. Of 50, 200 and 1,000 of them, drawn 20 times, it
prints how often they are called drift. The first rows are not changed, not even where one label is
left alone, and should hardly ever be; `val` is compared with all of train. `mix` is the share of
images that another label is predicted for than in the reference.

Beside KS stands how well a linear classifier (LDA) tells the changed vectors from the reference's:
its area under the ROC curve on images that it was not fitted on, 0.5 for not at all.

    python -m benchmarks.drift MODEL DATA [--others FOLDER …] [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from rich.console import Console
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from limelens.cli.terminal.printing import print_json
from limelens.serve import load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.errors import LimelensError
from limelens.serve.tools.drift import Reference, Sample, compare, reference_of
from limelens.serve.tools.similar import IndexedImage, Made, build_index, find_images

_SIZES: Final = (50, 200, 1000)
_DRAWS: Final = 20
_BATCH: Final = 8

_Change = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the model gives for some images: `(N, D)` vectors, `(N,)` confidences and labels."""

    vectors: NDArray[np.float32]
    confidences: NDArray[np.float32]
    predicted: NDArray[np.str_]

    def __getitem__(self, rows: NDArray[np.int64]) -> _Seen:
        return _Seen(self.vectors[rows], self.confidences[rows], self.predicted[rows])


def _shift(image: Image.Image, share: float) -> Image.Image:
    """Moves the image to the right; its edge fills the rest."""
    pixels = np.asarray(image)
    width = pixels.shape[1]
    moved = np.pad(pixels, ((0, 0), (int(share * width), 0), (0, 0)), mode="edge")
    return Image.fromarray(moved[:, :width])


def _from_afar(image: Image.Image, times: float) -> Image.Image:
    """Shows the image so many times smaller; its edges fill the rest."""
    pixels = np.asarray(image)
    rows, columns = (int(side * (times - 1) / 2) for side in pixels.shape[:2])
    padded = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    return Image.fromarray(padded).resize(image.size, Image.Resampling.BILINEAR)


def _tilt(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


def _warm(image: Image.Image, share: float) -> Image.Image:
    """Takes this share of blue away, and half of it of green."""
    tint = np.array([1, 1 - share / 2, 1 - share])
    return Image.fromarray((np.asarray(image) * tint).astype(np.uint8))


def _light(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _blur(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


_CHANGES: Final[dict[str, tuple[Callable[[Image.Image, float], Image.Image], Sequence[float]]]] = {
    "light times": (_light, (0.7, 0.5, 0.3, 0.2, 0.1, 1.5, 2.0, 3.0)),
    "blur of pixels": (_blur, (1, 2, 3, 4)),
    "shifted by": (_shift, (0.1, 0.2, 0.3)),
    "smaller by": (_from_afar, (1.2, 1.4, 1.8)),
    "tilted by degrees": (_tilt, (10, 20, 45)),
    "warmer by": (_warm, (0.2, 0.4, 0.6)),
}


def main() -> None:
    """Measures and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a model.onnx, or its folder")
    parser.add_argument("data", type=Path, help="a folder with train and val")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="other images")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    try:
        report = measure(arguments.model, arguments.data, arguments.others)
    except (LimelensError, OSError) as error:
        sys.exit(f"benchmarks.drift: {error}")
    if arguments.json:
        print_json(report)
    else:
        _print(report)


def measure(model: Path, data: Path, others: Iterable[Path] = ()) -> dict[str, Any]:
    """How often changed images are called drift.

    Args:
        model: A bundle.
        data: A folder with train and val.
        others: Folders of other images.

    Returns:
        What `--json` prints.

    Raises:
        LimelensError: A folder holds no images, or the bundle is refused.
    """
    bundle = load_bundle(model, "cpu")
    rng = np.random.default_rng(0)
    train = _load(bundle, data / "train")
    order = rng.permutation(len(train))
    seen = _look(bundle, train)
    labels = np.array([one.label for one in find_images(data / "train")[0]])
    known, new = order[: len(order) // 2], order[len(order) // 2 :][: _SIZES[-1]]
    half = _reference(bundle, seen[known])
    all_of_train = _reference(bundle, seen)
    unchanged = [train[row] for row in new]
    row = partial(_row, rng=rng)
    rows = [
        row("train, the other half", half, seen[known], seen[new]),
        *(
            row(f"{one} alone", half, seen[known], seen[new[labels[new] == one]])
            for one in np.unique(labels)
        ),
        row("val", all_of_train, seen, _look(bundle, _load(bundle, data / "val"))),
    ]
    for name, (change, strengths) in _CHANGES.items():
        for strength in strengths:
            changed = _look(bundle, [change(one, strength) for one in unchanged])
            rows.append(row(f"{name} {strength:g}", half, seen[known], changed))
    for folder in others:
        images = _look(bundle, _load(bundle, folder)[: _SIZES[-1]])
        rows.append(row(folder.parent.name, half, seen[known], images))
    return {
        "model": bundle.name,
        "version": bundle.version,
        "data": str(data),
        "num_reference": len(known),
        "draws": _DRAWS,
        "rows": rows,
    }


def _row(
    name: str, reference: Reference, known: _Seen, new: _Seen, *, rng: np.random.Generator
) -> dict[str, Any]:
    sample = reference.sample(new.vectors, new.confidences, new.predicted.tolist())
    assert sample.confidences is not None
    assert sample.predicted is not None
    flagged: dict[str, float] = {}
    for size in _SIZES:
        if size > len(sample):
            continue
        called = []
        for _ in range(_DRAWS if size < len(sample) else 1):
            drawn = rng.choice(len(sample), size, replace=False)
            part = Sample(
                sample.distances[drawn], sample.confidences[drawn], sample.predicted[drawn]
            )
            called.append(compare(reference, part).is_drift)
        flagged[str(size)] = float(np.mean(called))
    compared = compare(reference, sample)
    distance, confidence = compared.shifts
    return {
        "images": name,
        "num_images": len(sample),
        "distance": distance.median,
        "distance_ks": distance.ks,
        "confidence": confidence.median,
        "confidence_ks": confidence.ks,
        "mix_change": compared.mix_change,
        "auc": _auc(known.vectors[: _SIZES[-1]], new.vectors),
        "flagged": flagged,
    }


def _auc(known: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    is_new = np.repeat([0, 1], [len(known), len(new)])
    scores = cross_val_predict(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        np.concatenate([known, new]),
        is_new,
        cv=3,
        method="decision_function",
    )
    return float(roc_auc_score(is_new, scores))


def _reference(bundle: Bundle, seen: _Seen) -> Reference:
    images = [IndexedImage(str(row), "") for row in range(len(seen.vectors))]
    made = Made(bundle.name, bundle.version, bundle.digest, seen.vectors.shape[1], "")
    return reference_of(
        build_index(
            seen.vectors,
            images,
            made,
            confidences=seen.confidences,
            predicted=seen.predicted.tolist(),
        )
    )


def _load(bundle: Bundle, folder: Path) -> list[Image.Image]:
    """The images below a folder, in the size that the model sees."""
    height, width = bundle.input_size
    found = []
    for one in find_images(folder)[0]:
        with Image.open(folder / one.path) as image:
            resized = image.convert("RGB").resize(
                (width, height), Image.Resampling.BILINEAR, reducing_gap=3
            )
        found.append(resized)
    return found


def _look(bundle: Bundle, images: Sequence[Image.Image]) -> _Seen:
    parts = [
        bundle.predict_and_embed(
            np.stack([np.asarray(one) for one in images[first : first + _BATCH]])
        )
        for first in range(0, len(images), _BATCH)
    ]
    probabilities, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
    labels = np.array(bundle.labels, np.str_)
    return _Seen(vectors, probabilities.max(axis=1), labels[probabilities.argmax(axis=1)])


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(
        title=f"{report['model']} {report['version']}: drift against {report['num_reference']} "
        "images of train"
    )
    table.add_column("images")
    for column in (
        "distance",
        "KS",
        "confidence",
        "KS",
        "mix",
        "AUC",
        *(f"of {n}" for n in _SIZES),
    ):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["images"],
            f"{row['distance']:.4f}",
            f"{row['distance_ks']:.2f}",
            f"{row['confidence']:.4f}",
            f"{row['confidence_ks']:.2f}",
            f"{row['mix_change']:.2f}",
            f"{row['auc']:.2f}",
            *(f"{row['flagged'][str(n)]:.0%}" if str(n) in row["flagged"] else "" for n in _SIZES),
        )
    console.print(table)
    console.print(f"of N: how often N images, drawn {report['draws']} times, are called drift")


if __name__ == "__main__":
    main()
