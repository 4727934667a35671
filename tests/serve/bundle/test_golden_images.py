"""Golden images: what a file may hold, and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from limelens.serve.bundle import Metadata, Task, load_bundle
from limelens.serve.bundle.golden_images import (
    MAX_GOLDEN_IMAGES,
    GoldenImage,
    encode_golden,
    golden_images_to_json,
)
from limelens.serve.errors import BundleError
from limelens.serve.image import ResizeMode, ResizeRule, read_image

RULE = ResizeRule(32, 32, ResizeMode.STRETCH)


def plain(size: tuple[int, int] = (32, 32), kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(file, kind)
    return file.getvalue()


def of_colours(labels: tuple[str, ...] = ("red",), encoded: bytes | None = None) -> GoldenImage:
    return GoldenImage(labels, encoded or plain())


def test_golden_images_survive_the_file(tmp_path: Path, bundles: Any) -> None:
    images = (of_colours(), of_colours(("blue",), plain(kind="PNG")))
    metadata = replace(bundles.metadata(), golden_images=images)
    assert Metadata.from_props(metadata.to_props()).golden_images == images
    path = bundles.save(tmp_path, metadata)
    assert load_bundle(path, "cpu").metadata.golden_images == images
    several = replace(
        bundles.metadata("tags", Task.MULTILABEL),
        golden_images=(of_colours(("red", "blue")), of_colours(())),
    )
    assert Metadata.from_props(several.to_props()).golden_images == several.golden_images


def test_bundles_without_golden_images_are_as_before(bundles: Any) -> None:
    props = bundles.metadata().to_props()
    assert "limelens.golden_images" not in props
    assert Metadata.from_props(props).golden_images == ()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("{}", "no list of images"),
        ("[1]", "no list of images"),
        ('[{"labels": "red", "image": ""}]', "labels 'red' of a golden image"),
        ('[{"labels": [1], "image": ""}]', r"labels \[1\] of a golden image"),
        ('[{"labels": ["red"]}]', "a golden image has no bytes"),
        ('[{"labels": ["red"], "image": "!"}]', "a golden image has no bytes"),
        ('[{"labels": ["red"], "image": ""}]', "golden image 0: no bytes"),
        ('[{"labels": ["red"], "image": "bm9uZQ=="}]', "golden image 0: not a supported image"),
        ("[" + ",".join(["{}"] * (MAX_GOLDEN_IMAGES + 1)) + "]", "257 golden images"),
    ],
)
def test_golden_images_of_another_kind_are_refused(
    tmp_path: Path, bundles: Any, images: str, words: str
) -> None:
    model = bundles.model(bundles.metadata())
    model.metadata_props.append(
        onnx.StringStringEntryProto(key="limelens.golden_images", value=images)
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=words):
        load_bundle(path, "cpu")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (of_colours(("purple",)), "expected one of"),
        (of_colours(("red", "blue")), "expected one of"),
        (of_colours(()), "expected one of"),
        (of_colours(encoded=plain()[:60]), "golden image 0: damaged"),
        (of_colours(encoded=plain((4001, 1000))), "4,001,000 pixels; the limit is 4,000,000"),
        (of_colours(encoded=plain() + bytes(17 * 1024 * 1024)), "golden images of 17,826,"),
    ],
)
def test_golden_images_that_do_not_fit_a_bundle_are_refused(
    bundles: Any, image: GoldenImage, words: str
) -> None:
    props = bundles.metadata().to_props()
    props["limelens.golden_images"] = json.dumps(golden_images_to_json([image]))
    with pytest.raises(BundleError, match=words):
        Metadata.from_props(props)


def test_pixels_that_are_damaged_are_found_when_they_are_needed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = encode_golden(noise, RULE)
    assert GoldenImage(("red",), whole).fitted(RULE).shape == (32, 32, 3)
    with pytest.raises(BundleError, match="a golden image cannot be read: damaged"):
        GoldenImage(("red",), whole[: len(whole) // 2]).fitted(RULE)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((60, 80), (32, 43)), ((20, 10), (20, 10)), ((640, 64), (96, 10)), ((1, 500), (1, 96))],
)
def test_images_are_made_smaller_in_their_own_proportions(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    pixels = np.full((*shape, 3), 90, np.uint8)
    assert read_image(encode_golden(pixels, RULE)).shape == (*expected, 3)
