"""Explain against a real server."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serve.rpc.conftest import FAR_FROM_ALL, MANY, Gate, refused
from tests.waiting import ever_longer, until

from limelens.serve import Client, load_bundle
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.golden_images import GoldenImage
from limelens.serve.errors import (
    ExpiredError,
    InvalidImageError,
    InvalidRequestError,
    OverloadedError,
)
from limelens.serve.explaining.explain_image import explain_image
from limelens.serve.image import UNSEEN, Region
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import explanation_pb2, image_pb2

pytest.importorskip("skimage")

SIDE = 96


def scene() -> np.ndarray:
    """Grey, with a red corner at the top left that makes the image red."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels[: SIDE // 2, : SIDE // 2] = 255, 0, 0
    return pixels


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


GRID: dict[str, Any] = {
    "segmentation": "grid",
    "num_segments": 16,
    "num_samples": 200,
    "hide": "blur",
}
BLACK: dict[str, Any] = {**GRID, "hide": (0, 0, 0)}


def test_the_part_that_makes_the_label_is_found(client: Client) -> None:
    found = client.explain(scene(), labels=["red", "blue"], seed=3, **BLACK)
    red, blue = found.explanations
    assert (red.label, blue.label) == ("red", "blue")
    assert found.num_segments == 16
    assert found.num_samples == 200
    assert found.seed == 3
    # The grid's first two rows, first two columns are the red corner.
    assert {one.segment for one in red.weights[:4]} == {0, 1, 4, 5}
    assert all(one.weight > 0 for one in red.weights[:4])
    probability = client.classify(scene())[0].scores[0].probability
    assert red.probability == pytest.approx(probability, abs=1e-4)
    assert red.baseline is not None  # black has no colour
    assert red.baseline < red.probability - 0.2
    assert found.model.name == "colours"
    assert found.timings_ms.total >= found.timings_ms.predict > 0


def test_the_same_seed_gives_the_same_answer(client: Client) -> None:
    first = client.explain(scene(), seed=11, **BLACK)
    second = client.explain(scene(), seed=11, **BLACK)
    drawn = client.explain(scene(), **BLACK)
    again = client.explain(scene(), seed=drawn.seed, **BLACK)
    assert first.explanations == second.explanations
    assert drawn.explanations == again.explanations


@pytest.mark.parametrize("call", ["explain", "explain_stream"])
def test_out_of_memory_is_reported_as_when_classifying(
    client: Client, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def too_large(_self: Bundle, _images: np.ndarray) -> np.ndarray:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory")

    monkeypatch.setattr(Bundle, "predict", too_large)
    with pytest.raises(OverloadedError, match="the device has no memory left") as refused:
        list(getattr(client, call)(scene(), **GRID))
    assert refused.value.retry_after_s == 1.0


def test_top_labels_come_most_probable_first(client: Client) -> None:
    found = client.explain(scene(), top_labels=3, **GRID)
    probabilities = [one.probability for one in found.explanations]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize("method", ["slic", "quickshift", "felzenszwalb", "grid"])
def test_every_way_of_cutting_works(client: Client, method: Any) -> None:
    found = client.explain(scene(), segmentation=method, num_samples=50)
    assert found.explanations[0].label == "red"


def test_renderings_can_avoid_red_and_green(client: Client) -> None:
    drawn = [
        opened(
            client.explain(scene(), renderings=["overlay"], palette=palette, seed=1, **GRID)
            .explanations[0]
            .overlay_png
        ).astype(int)
        for palette in ("green_red", "blue_orange", None)
    ]
    assert np.array_equal(drawn[0], drawn[2])
    changed = (drawn[0] != drawn[1]).any(axis=2)
    assert changed.any()
    # Where one shows green for, the other shows blue.
    assert (drawn[1][changed][:, 2] > drawn[0][changed][:, 2]).any()


def test_images_have_the_upright_images_size(client: Client) -> None:
    wide = np.repeat(np.repeat(scene(), 2, axis=1), 1, axis=0)
    found = client.explain(png(wide), renderings=["overlay", "heat_map", "segments"], **GRID)
    one = found.explanations[0]
    assert opened(one.overlay_png).shape == (SIDE, 2 * SIDE, 3)
    assert opened(one.heat_map_png).ndim == 3
    segments = found.segments()
    assert segments is not None
    assert segments.shape == (SIDE, 2 * SIDE)
    assert len(np.unique(segments)) == 16


def test_only_requested_renderings_are_sent(client: Client) -> None:
    found = client.explain(scene(), **GRID)
    assert found.segments() is None
    assert found.explanations[0].overlay_png == b""
    assert found.explanations[0].heat_map_png == b""


def test_overlays_of_large_images_are_scaled_down(client: Client) -> None:
    large = np.repeat(np.repeat(scene(), 20, axis=0), 30, axis=1)
    found = client.explain(png(large), renderings=["overlay", "segments"], **GRID)
    assert opened(found.explanations[0].overlay_png).shape == (683, 1024, 3)
    segments = found.segments()
    assert segments is not None
    assert segments.shape == large.shape[:2]


@pytest.mark.parametrize("shape", [(3, 20_000), (600, 1), (1, 1)])
def test_images_of_odd_shapes_are_explained(client: Client, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (200, 10, 10), np.uint8)
    found = client.explain(png(pixels), renderings=["overlay", "segments"], **GRID)
    segments = found.segments()
    assert segments is not None
    assert segments.shape == shape
    assert max(opened(found.explanations[0].overlay_png).shape[:2]) <= 1024


def test_outside_of_the_region_nothing_is_explained(client: Client) -> None:
    found = client.explain(
        scene(), region=Region(0, 0, 0.5, 1), renderings=["segments", "overlay"], **GRID
    )
    segments = found.segments()
    assert segments is not None
    assert (segments[:, SIDE // 2 :] == UNSEEN).all()
    assert (segments[:, : SIDE // 2] != UNSEEN).all()


def test_own_segments_keep_their_ids(client: Client) -> None:
    own = np.full((SIDE, SIDE), 700, np.uint16)
    own[: SIDE // 2, : SIDE // 2] = 7
    own[SIDE // 2 :] = 65534
    found = client.explain(
        scene(), segments=own, num_samples=100, hide=(0, 0, 0), renderings=["segments"]
    )
    assert {one.segment for one in found.explanations[0].weights} == {7, 700, 65534}
    assert found.explanations[0].weights[0].segment == 7
    returned = found.segments()
    assert returned is not None
    assert np.array_equal(returned, own)
    # What came back can be sent again, with what the model never saw marked in it.
    part = client.explain(
        scene(), segments=own, num_samples=100, region=Region(0, 0, 0.5, 1), renderings=["segments"]
    )
    again = client.explain(
        scene(), segments=part.segments_png, num_samples=100, region=Region(0, 0, 0.5, 1)
    )
    assert again.num_segments == part.num_segments == 2


def test_sampling_stops_once_it_is_stable(client: Client) -> None:
    found = client.explain(
        scene(),
        segmentation="grid",
        num_segments=4,
        num_samples=5000,
        stability=0.5,
        hide=(0, 0, 0),
    )
    assert found.num_samples < 5000


def test_the_lime_packages_algorithm_can_be_requested(client: Client) -> None:
    found = client.explain(scene(), compat="lime", num_samples=60, seed=1)
    assert found.explanations[0].label == "red"


def image(**fields: Any) -> image_pb2.Image:
    return image_pb2.Image(**{"encoded": png(scene()), **fields})


def cut(**fields: Any) -> explanation_pb2.Segmentation:
    return explanation_pb2.Segmentation(**fields)


NAN, INFINITY = float("nan"), float("inf")
THOUSAND_AND_ONE = np.minimum(np.arange(SIDE * SIDE), 1000).astype(np.uint16).reshape(SIDE, SIDE)
THOUSAND_AND_ONE[-1, -1] = UNSEEN


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"image": None}, "image", "not set"),
        ({"image": image(encoded=b"text")}, "image.encoded", "not a supported image"),
        ({"num_samples": -1}, "num_samples", "expected 10 to 10000, or 0 for 1000"),
        ({"num_samples": 9}, "num_samples", "9; expected 10 to 10000"),
        ({"num_samples": 10**9}, "num_samples", "1000000000; expected 10 to 10000"),
        ({"labels": ["red", "pink"]}, "labels[1]", "'pink'; expected one of red, green, blue"),
        ({"labels": ["red", "red"]}, "labels[1]", "is given twice"),
        ({"labels": ["red"], "top_labels": 1}, "top_labels", "given together with labels"),
        ({"top_labels": 4}, "top_labels", "expected 1 to 3, the number of labels"),
        ({"top_labels": -1}, "top_labels", "expected 1 to 3"),
        ({"num_features": -5}, "num_features", "expected 0 or more"),
        ({"kernel_width": 0.0}, "kernel_width", "expected over 0"),
        ({"kernel_width": NAN}, "kernel_width", "nan"),
        ({"kernel_width": INFINITY}, "kernel_width", "inf"),
        ({"stability": 1.5}, "stability", "expected over 0 to 1"),
        ({"method": 9}, "method", "9; expected one of EXPLAIN_METHOD_LIME"),
        ({"distance": 9}, "distance", "9; expected one of DISTANCE_COSINE"),
        ({"sampling": 9}, "sampling", "SAMPLING_PAIRED"),
        ({"compat": 9}, "compat", "COMPAT_LIME"),
        ({"feature_selection": 77}, "feature_selection", "77"),
        ({"pictures": [1, 0]}, "pictures[1]", "PICTURE_UNSPECIFIED; expected one of"),
        ({"pictures": [8]}, "pictures[0]", "8; expected one of PICTURE_OVERLAY"),
        ({"hide": explanation_pb2.Hide(color=2**24)}, "hide.color", "expected 0x000000"),
        ({"hide": explanation_pb2.Hide(blur=False)}, "hide.blur", "expected true"),
        ({"segmentation": cut(method=9)}, "segmentation.method", "SEGMENTATION_METHOD_SLIC"),
        ({"segmentation": cut(num_segments=1)}, "segmentation.num_segments", "2 to 1000"),
        ({"segmentation": cut(num_segments=1001)}, "segmentation.num_segments", "2 to 1000"),
        ({"segmentation": cut(ratio=0.5)}, "segmentation.ratio", "not a parameter of slic"),
        ({"segmentation": cut(compactness=NAN)}, "segmentation.compactness", "nan"),
        (
            {"segmentation": cut(method="SEGMENTATION_METHOD_QUICKSHIFT", kernel_size=500)},
            "segmentation.kernel_size",
            "500; expected 0.5 to 10",
        ),
        (
            {"segmentation": cut(method="SEGMENTATION_METHOD_QUICKSHIFT", num_segments=5)},
            "segmentation.num_segments",
            "quickshift finds its own",
        ),
        (
            {"segmentation": cut(segments_png=b"x")},
            "segmentation.segments_png",
            "not a readable PNG",
        ),
        (
            {"segmentation": cut(segments_png=b"x", num_segments=4)},
            "segmentation.segments_png",
            "given together with num_segments",
        ),
        (
            {"segmentation": cut(segments_png=png(np.zeros((5, 6), np.uint8)))},
            "segmentation.segments_png",
            "5x6; the upright image is 96x96",
        ),
        (
            {"segmentation": cut(segments_png=png(scene()))},
            "segmentation.segments_png",
            "expected a 16-bit greyscale PNG",
        ),
        (
            {"segmentation": cut(segments_png=png(THOUSAND_AND_ONE))},
            "segmentation.segments_png",
            "1001 different ids; expected at most 1000",
        ),
        (
            {"segmentation": cut(method="SEGMENTATION_METHOD_QUICKSHIFT", kernel_size=11)},
            "segmentation.kernel_size",
            "11; expected 0.5 to 10",
        ),
        (
            {
                "labels": ["red", "blue"],
                "num_features": 501,
                "feature_selection": "FEATURE_SELECTION_FORWARD_SELECTION",
            },
            "num_features",
            "each of 2 labels; expected at most 1000 together",
        ),
        (
            {"compat": "COMPAT_LIME", "sampling": "SAMPLING_PAIRED"},
            "sampling",
            "lime draws independent rows",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(
    server: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    request = service_pb2.ExplainRequest(**{"image": image(), **fields})
    error, details = refused(lambda: server.stub().Explain(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    violation = details["BadRequest"].field_violations[0]
    assert violation.field == field
    assert words in violation.description


@pytest.mark.ci
def test_every_file_of_the_bad_set_gets_a_response(client: Client, data_folder: Path) -> None:
    rows = (data_folder / "badimages" / "index.csv").read_text().splitlines()[1:]
    for row in rows:
        path = data_folder / "badimages" / row.split(",")[0]
        if ",ok," in row:
            client.explain(path, segmentation="grid", num_samples=10)
        else:
            with pytest.raises(InvalidImageError) as caught:
                client.explain(path, segmentation="grid", num_samples=10)
            assert caught.value.field == "image.encoded"


def test_the_limit_on_samples_is_the_servers_own(start_server: Callable[..., Any]) -> None:
    server = start_server(service=ServiceSettings(limits=Limits(max_samples=100)))
    with (
        Client(server.address) as client,
        pytest.raises(InvalidRequestError, match="expected 10 to 100"),
    ):
        client.explain(scene(), num_samples=101)


def test_past_its_deadline_an_explanation_stops_soon(
    server: Any, client: Client, crawling: list[float]
) -> None:
    for timeout_s in ever_longer(1.5):
        with pytest.raises(ExpiredError):
            client.explain(
                scene(), segmentation="grid", num_samples=MANY, timeout_s=timeout_s, hide=(0, 0, 0)
            )
        until(lambda: server.service.explainer.num_open == 0)
        if crawling:  # it may expire before it reaches a busy server
            break
    assert len(crawling) < FAR_FROM_ALL
    # No place is lost: the next one is answered.
    assert client.explain(scene(), **BLACK).explanations


def test_an_explanation_stops_outside_the_model_too(
    one_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    own = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // SIDE
    request = service_pb2.ExplainRequest(
        image=image(),
        num_samples=32,
        num_features=20,
        feature_selection="FEATURE_SELECTION_FORWARD_SELECTION",
        segmentation=cut(segments_png=png(own.astype(np.uint16))),
    )
    predict, num_predicted, num_checks = Bundle.predict, 0, 0

    def counted(self: Bundle, images: np.ndarray) -> np.ndarray:
        nonlocal num_predicted
        num_predicted += len(images)
        return predict(self, images)

    def check() -> None:
        nonlocal num_checks
        num_checks += num_predicted == 33  # with the baseline
        if num_checks == 20:
            raise ExpiredError("nobody waits")

    monkeypatch.setattr(Bundle, "predict", counted)
    with pytest.raises(ExpiredError):
        explain_image(bundle, read_explain(request, bundle.metadata, Limits()), check)


def test_a_cancelled_explanation_stops_soon(
    server: Any, client: Client, crawling: list[float]
) -> None:
    request = service_pb2.ExplainRequest(image=image(), num_samples=MANY)
    call = server.stub().Explain.future(request)
    until(lambda: crawling)
    call.cancel()
    until(lambda: server.service.explainer.num_open == 0)
    assert len(crawling) < FAR_FROM_ALL
    assert client.explain(scene(), **BLACK).explanations


def test_explanations_wait_for_each_other_up_to_a_bound(
    start_server: Callable[..., Any], gate: Gate
) -> None:
    server = start_server(service=ServiceSettings(max_explanations=1, max_waiting_explanations=1))
    stub, explainer = server.stub(), server.service.explainer
    request = service_pb2.ExplainRequest(image=image(), num_samples=400)
    gate.opened.clear()
    calls = [stub.Explain.future(request) for _ in range(6)]
    until(lambda: sum(call.done() for call in calls) == 4)
    gate.opened.set()
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == 2
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4
    # What waits and is cancelled gives its place back.
    gate.opened.clear()
    running = stub.Explain.future(request)
    until(lambda: explainer.num_open == 1)
    waiting = stub.Explain.future(request)
    until(lambda: explainer.num_open == 2)
    waiting.cancel()
    until(lambda: explainer.num_open == 1)
    last = stub.Explain.future(request)
    until(lambda: explainer.num_open == 2)
    gate.opened.set()
    assert last.result().num_samples == 400
    assert running.result().num_samples == 400


def test_classify_goes_on_while_explanations_run(
    server: Any, client: Client, crawling: list[float]
) -> None:
    request = service_pb2.ExplainRequest(image=image(), num_samples=MANY)
    call = server.stub().Explain.future(request)
    until(lambda: crawling)
    for _ in range(20):
        client.classify(scene())
    assert not call.done()
    call.cancel()
    until(lambda: server.service.explainer.num_open == 0)


def test_few_features_are_selected_and_none_contradicts_them(client: Client) -> None:
    few = client.explain(scene(), num_samples=200, num_features=3, seed=1)
    assert len(few.explanations[0].weights) == 3
    with pytest.raises(InvalidRequestError, match="feature_selection NONE"):
        client.explain(scene(), num_samples=200, num_features=3, feature_selection="none")


def test_golden_images_of_other_labels_are_what_hidden_segments_show(
    start_server: Any, bundles: Any, tmp_path: Path
) -> None:
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    golden = tuple(
        GoldenImage((label,), png(np.full((SIDE, SIDE, 3), colour, np.uint8)))
        for label, colour in colours.items()
    )
    metadata = bundles.metadata()
    assert set(metadata.labels) <= set(colours)
    golden = tuple(one for one in golden if one.labels[0] in metadata.labels)
    bundles.save(tmp_path / "models", replace(metadata, golden_images=golden))
    with Client(start_server(tmp_path / "models").address) as client:
        options: dict[str, Any] = {**GRID, "hide": "references", "seed": 3}
        found = client.explain(scene(), labels=["red"], num_fills=4, **options)
        (red,) = found.explanations
        assert {one.segment for one in red.weights[:4]} == {0, 1, 4, 5}
        assert all(one.weight > 0 for one in red.weights[:4])
        once = client.explain(scene(), labels=["red"], num_fills=1, **options)
        assert once.explanations[0].weights != red.weights
        with pytest.raises(InvalidRequestError, match=r"hide\.num_fills: 17; expected 1"):
            client.explain(scene(), num_fills=17, **options)
        with pytest.raises(InvalidRequestError, match="is one fill"):
            client.explain(scene(), num_fills=2, **GRID)


def test_references_need_golden_images(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"hide: .*a bundle has its golden images"):
        client.explain(scene(), **{**GRID, "hide": "references"})
