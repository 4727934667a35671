r"""Trains a detector of faces and writes it as a bundle with its card.

    python -m limelens.train.detection facemask --others cats_dogs --others clothing \
        --others wine --out detector/model.onnx

The teacher that finds the faces in photographs of single people is CenterFace
(`pip install 'limelens[faces]'`). Then come a first training, a search for backgrounds in which
the network sees faces, and a second training in which these come more often. At last the threshold
is chosen on frames composed of the validation images, and the card is written. These frames are as
hard as those of the training; `python -m benchmarks.faces` has frames as cameras see them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from limelens.serve.errors import LimelensError
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import fit
from limelens.train.detection.composing import Scenery, compose
from limelens.train.detection.evaluating import choose_threshold, examine, table
from limelens.train.detection.exporting import (
    RESIZE,
    export_detector,
    set_threshold,
    write_card,
)
from limelens.train.detection.frames import (
    Boxes,
    Find,
    Frame,
    Photograph,
    Pixels,
    Sources,
    no_boxes,
)
from limelens.train.detection.network import FaceNetwork
from limelens.train.detection.photographs import read_sources
from limelens.train.detection.training import Settings, train

LEAST_SCORE: Final = 0.15
"""Boxes below it are not looked at."""
TEST_SCENERY: Final = Scenery(
    size=(480, 640), face_px=(24.0, 200.0), num_faces=(0.0, *[1 / 8] * 8), whole=0.0, drawn=0.0
)
"""The frames on which detectors are measured: one to eight photographed faces."""
_FIRES: Final = 0.25
_HARD_SHARE: Final = 0.4
_log = logging.getLogger("limelens.train.detection")


def finder(detector: FaceDetector) -> Find:
    """A detector as a function from an image to boxes and scores, unsure ones included."""
    options = FaceOptions(min_size_px=1, threshold=LEAST_SCORE)

    def find(pixels: Pixels) -> tuple[Boxes, NDArray[np.float32]]:
        faces = detector.detect(pixels, options)
        boxes = [(face.left, face.top, face.right, face.bottom) for face in faces]
        scores = np.array([face.score for face in faces], dtype=np.float32)
        return np.array(boxes, dtype=np.float32).reshape(-1, 4), scores

    return find


def mine(find: Find, backgrounds: Sequence[Photograph]) -> list[Photograph]:
    """The backgrounds in which a detector sees faces."""
    return [one for one in backgrounds if find(one.pixels)[1].max(initial=0) >= _FIRES]


def with_hard(sources: Sources, hard: Sequence[Photograph]) -> Sources:
    """Sources in which a share of all backgrounds are the hard ones."""
    if not hard:
        return sources
    count = round(_HARD_SHARE / (1 - _HARD_SHARE) * len(sources.backgrounds))
    repeated = [hard[n % len(hard)] for n in range(count)]
    return replace(sources, backgrounds=[*sources.backgrounds, *repeated])


def crowded_frames(sources: Sources, count: int, seed: int) -> list[Frame]:
    """Frames on which detectors are measured."""
    return [
        compose(sources, TEST_SCENERY, np.random.default_rng((seed, number)))
        for number in range(count)
    ]


def empty_frames(sources: Sources) -> list[Frame]:
    """Each background alone, as it is."""
    nobody = np.zeros(0, dtype=bool)
    return [Frame(one.pixels, no_boxes(), no_boxes(), nobody) for one in sources.backgrounds]


def main() -> None:
    """Reads the command line, trains, measures and writes."""
    arguments = _parsed()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("limelens").setLevel(logging.INFO)
    torch.set_num_threads(arguments.threads)
    try:
        _make(arguments)
    except LimelensError as error:
        raise SystemExit(f"error: {error}") from error


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m limelens.train.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("people", type=Path, help="splits with with_mask and without_mask: one person an image")
    add("--others", type=Path, action="append", required=True, help="splits of images of no people")
    add("--out", type=Path, required=True, help="the bundle; its card is README.md beside it")
    add("--steps", type=int, default=2400, help="of the first training (%(default)s)")
    add("--mined-steps", type=int, default=5500, help="of the second training (%(default)s)")
    add("--batch-size", type=int, default=24, help="(%(default)s)")
    add("--num-drawn", type=int, default=1200, help="drawn portraits (%(default)s)")
    add("--num-frames", type=int, default=600, help="to measure with (%(default)s)")
    add("--max-false", type=float, default=0.01, help="false faces a frame (%(default)s)")
    add("--threshold", type=float, help="of the bundle; chosen by --max-false if it is missing")
    add("--measure-only", action="store_true", help="train nothing: measure OUT")
    add("--start", type=Path, help="weights after --steps: no first training")
    add("--weights", type=Path, help="file that gets the weights while training")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--threads", type=int, default=1, help="of the network (%(default)s)")
    add("--num-workers", type=int, default=1, help="processes that compose (%(default)s)")
    return parser.parse_args()


def _make(arguments: argparse.Namespace) -> None:
    centerface = load_detector("centerface", "cpu", num_threads=1)
    read = partial(read_sources, arguments.people, arguments.others, finder(centerface))
    seed, out = arguments.seed, arguments.out
    if not arguments.measure_only:
        sources, digest = read("train", num_drawn=arguments.num_drawn, seed=seed)
        network = _trained(arguments, sources)
        card = {
            "steps": [arguments.steps, arguments.mined_steps],
            "batch_size": arguments.batch_size,
            "seed": seed,
            "scenery": asdict(Scenery()),
        }
        frame = compose(sources, TEST_SCENERY, np.random.default_rng(seed))
        proof = fit(frame.image, RESIZE).pixels
        export_detector(
            network, out, threshold=LEAST_SCORE, data_digest=digest, card=card, proof=proof
        )
    # The backgrounds have no test split: those of validation serve twice.
    held_back = {
        split: read(split, background_split="val", num_drawn=1)[0] for split in ("val", "test")
    }
    sections = _measured(out, centerface, held_back, arguments)
    write_card(out.with_name("README.md"), out, sections)


def _measured(
    path: Path,
    centerface: FaceDetector,
    held_back: Mapping[str, Sources],
    arguments: argparse.Namespace,
) -> list[str]:
    """Chooses a bundle's threshold on the first sources, and says what it finds on each."""
    find = finder(load_detector(path, "cpu", num_threads=1))
    sections: list[str] = []
    threshold = LEAST_SCORE
    for split, sources in held_back.items():
        frames = crowded_frames(sources, arguments.num_frames, arguments.seed + 1)
        own, alone = examine(find, frames), examine(find, empty_frames(sources))
        if not sections:
            threshold = arguments.threshold
            if threshold is None:
                threshold = choose_threshold((own, alone), arguments.max_false)
            set_threshold(path, threshold)
        theirs = examine(finder(centerface), frames)
        rows = [
            ("this one", own, threshold),
            ("CenterFace", theirs, centerface.bundle.metadata.threshold),
        ]
        sections.append(
            f"## On {len(frames)} frames of the {split} images\n\n{table(rows)}\n\n"
            f"On the {alone.num_frames} backgrounds alone, as they are: "
            f"{alone.false_per_frame(threshold):.4f} false faces an image."
        )
        _log.info("threshold %.2f\n%s", threshold, sections[-1])
    return sections


def _trained(arguments: argparse.Namespace, sources: Sources) -> FaceNetwork:
    """The first training, or where it ended, and the second."""
    settings = Settings(
        num_steps=arguments.steps,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )

    def keep(_: int, network: FaceNetwork) -> None:
        if arguments.weights:
            torch.save(network.state_dict(), arguments.weights)

    if arguments.start:
        network = FaceNetwork()
        network.load_state_dict(torch.load(arguments.start, weights_only=True))
    else:
        network = train(sources, Scenery(), settings, on_progress=keep)
    hard = mine(_finder_of(network, arguments.out), sources.backgrounds)
    _log.info("it sees faces in %d of %d backgrounds", len(hard), len(sources.backgrounds))
    second = replace(settings, num_steps=arguments.mined_steps, seed=settings.seed + 1)
    return train(with_hard(sources, hard), Scenery(), second, start=network, on_progress=keep)


def _finder_of(network: FaceNetwork, path: Path) -> Find:
    export_detector(network, path, threshold=LEAST_SCORE)
    return finder(load_detector(path, "cpu", num_threads=1))


if __name__ == "__main__":
    main()
