"""`limelens bulk embed`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from limelens.cli.bulk.options import Device, Input, Model, Run, with_run
from limelens.cli.bulk.running import run as run_work
from limelens.cli.classifying import RegionOption, parse_region
from limelens.cli.options import option

_IMAGES_PER_FILE: Final = 512


@with_run
def embed(
    images: Input,
    model: Model,
    run: Run,
    device: Device = "auto",
    region: RegionOption = None,
    normalize: Annotated[bool, option("Divide each vector by its length.", "--normalize")] = False,
) -> None:
    """Embeds a collection of images: a row for each, with its vector and its decision.

    Images that look alike to the model have vectors that point the same way.

    Example: limelens bulk embed photos --out vectors --model models/facemask/2
    """
    options: dict[str, Any] = {
        "device": device,
        "region": parse_region(region),
        "normalize": normalize,
    }

    def work() -> Any:
        from limelens.bulk.embedding import embed_work

        return embed_work(model, **options)

    made_by = {"command": "embed", "model": model, **options}
    run_work(images, run, device, made_by, work, _IMAGES_PER_FILE)
