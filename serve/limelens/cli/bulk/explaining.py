"""`limelens bulk explain`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

from limelens.cli.bulk.options import Device, Input, Model, Run, with_run
from limelens.cli.bulk.running import run as run_work
from limelens.cli.classifying import RegionOption, parse_region
from limelens.cli.explain.explaining import OWN, parse_contrast, parse_hide
from limelens.cli.options import option
from limelens.cli.options.face_options import NO_FACES, DetectorOption, Faces, with_faces
from limelens.serve.faces.options import DEFAULT_DETECTOR

_IMAGES_PER_FILE: Final = 32
_MOST: Final = 2**31 - 1
_PASSED_ON: Final = (
    "top_labels", "method", "segmentation", "num_segments", "num_samples", "num_fills",
    "stability", "max_samples", "compat", "seed", "palette",
)  # fmt: skip
_count: Final = partial(option, min=0, max=_MOST)


@with_run
@with_faces
def explain(
    images: Input,
    model: Model,
    run: Run,
    device: Device = "auto",
    label: Annotated[
        list[str] | None,
        option("A label to explain; may be repeated.", show_default="the most probable"),
    ] = None,
    top_labels: Annotated[
        int, _count("Explain this many of the most probable.", show_default="1")
    ] = 0,
    contrast: Annotated[
        list[str] | None,
        option("Explain why the first and not the second; may be repeated.", metavar="LABEL,LABEL"),
    ] = None,
    overlay: Annotated[
        bool, option("Write the overlay too, as a PNG: green for, red against.", "--overlay")
    ] = False,
    heat_map: Annotated[
        bool, option("Write the weight of every pixel too, as a PNG.", "--heat-map")
    ] = False,
    segments: Annotated[
        bool, option("Write the segment ids too, as a 16-bit PNG.", "--segments")
    ] = False,
    region: RegionOption = None,
    method: Annotated[
        Literal["lime", "kernel_shap", "occlusion", "rise"] | None,
        option("How segments are weighed.", show_default=OWN.format("lime")),
    ] = None,
    segmentation: Annotated[
        Literal["slic", "quickshift", "felzenszwalb", "grid"] | None,
        option("How images are cut.", show_default=OWN.format("slic")),
    ] = None,
    num_segments: Annotated[int, _count("For slic and grid.", show_default=OWN.format(40))] = 0,
    num_samples: Annotated[
        int,
        _count("Images that the model predicts for each.", show_default=OWN.format(1000)),
    ] = 0,
    stability: Annotated[
        float | None,
        option("Sample until this share of the top segments would recur.", min=0.0, max=1.0),
    ] = None,
    max_samples: Annotated[
        int, _count("The most samples for --stability.", show_default="as --num-samples")
    ] = 0,
    hide: Annotated[
        str | None,
        option(
            "Fill of hidden segments: mean, blur, shuffle, references, or a colour (000000).",
            show_default=OWN.format("mean"),
        ),
    ] = None,
    num_fills: Annotated[
        int,
        _count("Fills for each row of hidden segments.", show_default="6 for references, else 1"),
    ] = 0,
    palette: Annotated[
        Literal["green_red", "blue_orange"] | None,
        option(
            "Colours for and against; blue_orange suits colour-blind readers.",
            show_default="green_red",
        ),
    ] = None,
    compat: Annotated[
        Literal["lime"] | None, option("The algorithm and the defaults of the lime package.")
    ] = None,
    seed: Annotated[
        int, option("Seed of the samples, the same for every image.", min=0, max=2**32 - 1)
    ] = 0,
    faces: Faces = NO_FACES,
    face_detector: DetectorOption = DEFAULT_DETECTOR,
) -> None:
    """Explains a collection of images: a row for each, with the weights and how far to trust them.

    A row has the decision, each weight with its standard error, the fit (score), the stability and
    the place of each segment. limelens explain --help says more of the options.

    Example: limelens bulk explain photos --out why --model models/facemask/2 --overlay
    """
    given = dict(locals())
    drawn = {"overlay": overlay, "heat_map": heat_map, "segments": segments}
    arguments: dict[str, Any] = {
        **{name: given[name] for name in _PASSED_ON},
        "labels": label or (),
        "contrasts": [parse_contrast(pair) for pair in contrast or ()],
        "region": parse_region(region),
        "hide": None if hide is None else parse_hide(hide),
        "renderings": [name for name, wanted in drawn.items() if wanted],
        "faces": faces.wanted,
    }

    def work() -> Any:
        from limelens.bulk.explaining import explain_work

        return explain_work(model, device=device, face_detector=face_detector, **arguments)

    as_given = ("label", "contrast", "region", "hide", "overlay", "heat_map", "segments")
    made_by = {
        "command": "explain", "model": model, "device": device, "face_detector": face_detector,
        **{name: given[name] for name in (*_PASSED_ON, *as_given)}, "faces": faces.wanted,
    }  # fmt: skip
    run_work(images, run, device, made_by, work, _IMAGES_PER_FILE)
