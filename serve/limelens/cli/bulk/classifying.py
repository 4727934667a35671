"""`limelens bulk classify`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from limelens.cli.bulk.options import Device, Input, Model, Run, with_run
from limelens.cli.bulk.running import run as run_work
from limelens.cli.classifying import RegionOption, Threshold, parse_region
from limelens.cli.options import option
from limelens.cli.options.face_options import NO_FACES, DetectorOption, Faces, with_faces
from limelens.serve.faces.options import DEFAULT_DETECTOR

_IMAGES_PER_FILE: Final = 512


@with_run
@with_faces
def classify(
    images: Input,
    model: Model,
    run: Run,
    device: Device = "auto",
    region: RegionOption = None,
    top_k: Annotated[int, option("Probabilities to write.", min=0, show_default="all")] = 0,
    threshold: Threshold = None,
    faces: Faces = NO_FACES,
    face_detector: DetectorOption = DEFAULT_DETECTOR,
) -> None:
    """Classifies a collection of images: a row for each, with label, probabilities and decision.

    An image that cannot be read is a row with an error. A run that was stopped, or killed at any
    moment, goes on with the same command.

    Example: limelens bulk classify photos --out labels --model models/facemask/2
    """
    options: dict[str, Any] = {
        "device": device,
        "region": parse_region(region),
        "top_k": top_k,
        "threshold": threshold,
        "faces": faces.wanted or None,
        "face_detector": face_detector,
    }

    def work() -> Any:
        from limelens.bulk.classifying import classify_work

        return classify_work(model, **options)

    made_by = {"command": "classify", "model": model, **options}
    run_work(images, run, device, made_by, work, _IMAGES_PER_FILE)
