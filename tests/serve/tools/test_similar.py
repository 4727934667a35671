"""Similar images: folders indexed by real clients, indexes written, damaged, searched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelens.serve import Client
from limelens.serve.client.in_process import local_client
from limelens.serve.errors import InvalidRequestError, NotFoundError
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.serve.tools.similar import (
    IndexedImage,
    IndexRefusedError,
    Made,
    SimilarIndex,
    build_index,
    find_images,
    index_folder,
    load_index,
    save_index,
)
from limelens.serve.tools.similar.sheet import Panel, write_sheet
from limelens.serve.tools.similar.space import MIN_TO_CENTRE, FeatureSpace

COLOURS = {
    "train/warm/red.png": (250, 10, 10),
    "train/warm/orange.png": (250, 120, 10),
    "train/cold/blue.png": (10, 10, 250),
    "validation/cold/teal.png": (10, 140, 200),
    "validation/cold/deep/navy.png": (5, 5, 90),
    "loose.png": (10, 250, 10),
}


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, colour in COLOURS.items():
        paint(folder / name, colour)
    return folder


@pytest.fixture
def local(one_model: Path) -> Client:
    return local_client(one_model / "colours" / "1", "cpu")


@pytest.fixture(params=["file", "server"])
def asked(
    request: pytest.FixtureRequest, local: Client, start_server: Callable[..., Any]
) -> Iterator[Client]:
    if request.param == "file":
        yield local
        return
    with Client(start_server().address, max_attempts=1) as client:
        yield client


@pytest.fixture
def index(local: Client, images: Path) -> SimilarIndex:
    return index_folder(local, images).index


def test_labels_are_folders_below_the_splits(tmp_path: Path) -> None:
    names = [
        "a.jpg", "train/b.PNG", "train/coat/c.webp", "val/coat/red/d.bmp", "coat/e.gif",
        "coat/test/f.jpeg", "validation/without_suffix/picture", "test/hat/notes.txt",
        "README.md", ".hidden/g.jpg", "hat/.h.jpg",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_images(tmp_path)
    assert {one.path: one.label for one in found} == {
        "a.jpg": "",
        "train/b.PNG": "",
        "train/coat/c.webp": "coat",
        "val/coat/red/d.bmp": "coat",
        "coat/e.gif": "coat",
        "coat/test/f.jpeg": "coat",
        "validation/without_suffix/picture": "without_suffix",
    }
    assert [one.path for one in others] == ["test/hat/notes.txt"]
    assert ".txt is not a supported image format" in others[0].reason


def test_an_index_names_its_folder_and_model(asked: Client, images: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = index_folder(asked, images, progress=lambda *step: steps.append(step))
    made = found.index.made
    assert (made.model, made.version, made.embedding_size) == ("colours", 1, 3)
    assert made.digest == asked.embed(images / "loose.png").model_digest
    assert made.data == str(images.resolve())
    assert [one.path for one in found.index.images] == sorted(COLOURS)
    assert found.index.label_counts() == {"cold": 3, "warm": 2}
    assert found.skipped == ()
    assert steps[-1] == (6, 6)


def test_every_image_of_an_index_is_its_own_nearest_neighbour(asked: Client, images: Path) -> None:
    index = index_folder(asked, images).index
    vectors = asked.embed([images / name for name in COLOURS]).vectors
    for name, neighbours in zip(COLOURS, index.search(vectors, 3), strict=True):
        assert len(neighbours) == 3
        if "navy" not in name and "blue" not in name:  # of nearly the same direction
            assert neighbours[0].path == name
        assert neighbours[0].similarity == pytest.approx(1, abs=1e-6)
        similarities = [one.similarity for one in neighbours]
        assert similarities == sorted(similarities, reverse=True)
        assert all(-1 <= one <= 1 for one in similarities)


def test_neighbours_are_the_nearest_by_cosine(index: SimilarIndex) -> None:
    (neighbours,) = index.search(np.array([[200, 20, 10]], np.float32), 10)
    assert len(neighbours) == 6
    query = np.array([200, 20, 10]) / np.linalg.norm([200, 20, 10])
    for one in neighbours:
        colour = np.array(COLOURS[one.path], float)
        assert one.similarity == pytest.approx(query @ colour / np.linalg.norm(colour), abs=1e-4)
    assert [(one.path, one.label) for one in neighbours[:2]] == [
        ("train/warm/red.png", "warm"),
        ("train/warm/orange.png", "warm"),
    ]


def test_an_index_keeps_confidences_if_its_maker_may_classify(
    start_server: Callable[..., Any], local: Client, images: Path, tokens: Any
) -> None:
    expected = [local.classify(images / one)[0].scores[0].probability for one in sorted(COLOURS)]
    both = tokens.set("both", ["classify", "embed", "models"])
    vectors = tokens.set("vectors", ["embed", "models"])
    address = start_server(access=tokens.access()).address
    with Client(address, token=both) as client:
        index = index_folder(client, images).index
        assert index.confidences is not None
        np.testing.assert_allclose(index.confidences, expected, rtol=1e-6)
        assert index.predicted == tuple(
            local.classify(images / one)[0].scores[0].label for one in sorted(COLOURS)
        )
    with Client(address, token=vectors) as client:
        index = index_folder(client, images).index
        assert index.confidences is None
        assert index.predicted is None


def test_a_file_and_a_server_make_the_same_index(
    local: Client, images: Path, server: Any, tmp_path: Path
) -> None:
    with Client(server.address) as client:
        for name, asked in (("ours", local), ("theirs", client)):
            save_index(index_folder(asked, images).index, tmp_path / name)
    ours, theirs = load_index(tmp_path / "ours"), load_index(tmp_path / "theirs")
    assert ours.made == theirs.made
    assert ours.images == theirs.images
    query = np.array([[1, 2, 3]], np.float32)
    assert ours.search(query, 6) == theirs.search(query, 6)


def test_images_that_cannot_be_read_are_left_out_and_listed(
    asked: Client, images: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "train/cold/a_page.jpg").write_text("<!doctype html><html></html>")
    (data / "train/warm/empty.png").touch()
    whole = (data / "loose.png").read_bytes()
    (data / "validation/cold/cut.png").write_bytes(whole[:50])
    (data / "train/cold/notes.txt").write_text("blue")
    (data / "train/warm/gone.png").symlink_to(data / "nowhere.png")
    found = index_folder(asked, data)
    assert [one.path for one in found.index.images] == sorted(COLOURS)
    reasons = {one.path: one.reason for one in found.skipped}
    assert {*reasons} == {
        "train/cold/a_page.jpg",
        "train/warm/empty.png",
        "validation/cold/cut.png",
        "train/cold/notes.txt",
        "train/warm/gone.png",
    }
    assert "HTML" in reasons["train/cold/a_page.jpg"]
    assert reasons["train/warm/empty.png"].startswith("no bytes")
    assert all(reasons.values())


def test_small_limits_of_a_server_are_kept(
    start_server: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data / "train/warm/huge.png")
    # Together over the limit on messages, each for itself below it.
    for i in range(4):
        Image.fromarray(noise[: 90 + i]).save(data / f"train/warm/large{i}.png")
    server = start_server(
        max_message_bytes=100_000, service=ServiceSettings(limits=Limits(max_images=2))
    )
    with Client(server.address, max_attempts=1) as client:
        found = index_folder(client, data)
    assert len(found.index) == 10
    (skipped,) = found.skipped
    assert skipped.path == "train/warm/huge.png"
    assert "the limit is 100,000" in skipped.reason


def test_many_images_keep_their_order(local: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    colours = rng.integers(1, 256, (150, 3))
    for i, colour in enumerate(colours):
        paint(tmp_path / f"{i:03d}.png", tuple(colour.tolist()))
    index = index_folder(local, tmp_path).index
    assert [one.path for one in index.images] == [f"{i:03d}.png" for i in range(150)]
    vectors = index.faiss_index.reconstruct_n(0, 150)
    assert vectors == pytest.approx(index.space.placed(colours.astype(np.float32)), abs=1e-3)


def test_a_model_that_is_replaced_while_indexing_is_noticed(
    start_server: Callable[..., Any], one_model: Path, bundles: Any, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(one_model, models)
    for i in range(20):
        paint(tmp_path / "data" / f"{i:02d}.png", (i, 100, 100))
    server = start_server(models, service=ServiceSettings(limits=Limits(max_images=1)))

    def replace_model(num_done: int, _num_all: int) -> None:
        if num_done == 1:
            other = bundles.model(replace(bundles.metadata(), threshold=0.7))
            path = models / "colours" / "1" / "model.onnx"
            path.write_bytes(other.SerializeToString())
            assert server.repository.refresh()

    with (
        Client(server.address) as client,
        pytest.raises(IndexRefusedError, match=r"colours version 1 was replaced .* run the comma"),
    ):
        index_folder(client, tmp_path / "data", progress=replace_model)


def test_folders_that_cannot_be_indexed_are_refused_with_the_reason(
    local: Client, server: Any, tmp_path: Path
) -> None:
    with pytest.raises(IndexRefusedError, match="is no folder"):
        index_folder(local, tmp_path / "nowhere")
    with pytest.raises(IndexRefusedError, match="holds no images; expected files that end in"):
        index_folder(local, tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(IndexRefusedError, match=r"none of 2 images can be read; the first is a"):
        index_folder(local, tmp_path)
    with Client(server.address) as client, pytest.raises(NotFoundError, match="there is colours"):
        index_folder(client, tmp_path, model="cats")


def test_a_written_index_is_read_as_it_was(index: SimilarIndex, tmp_path: Path) -> None:
    path = tmp_path / "new" / "colours.index"
    save_index(index, path)
    found = load_index(path)
    assert found.made == index.made
    assert found.images == index.images
    assert found.is_exact
    query = np.array([[3, 1, 2], [0, 0, 1]], np.float32)
    assert found.search(query, 4) == index.search(query, 4)
    assert [one.name for one in path.parent.iterdir()] == ["colours.index"]
    old = os.umask(0)
    os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~old


def test_names_of_any_script_and_bytes_survive(local: Client, tmp_path: Path) -> None:
    data = tmp_path / "data"
    paint(data / "口罩" / "änne 1.png", (1, 2, 3))
    odd = os.fsdecode(b"not_utf8_\xff.png")
    paint(data / "plain.png", (3, 2, 1)).rename(data / odd)
    save_index(index_folder(local, data).index, tmp_path / "index")
    found = load_index(tmp_path / "index").images
    assert {*found} == {IndexedImage("口罩/änne 1.png", "口罩"), IndexedImage(odd, "")}


def test_damage_is_refused_or_harmless(index: SimilarIndex, tmp_path: Path) -> None:
    path = tmp_path / "index"
    save_index(index, path)
    whole = path.read_bytes()
    query = np.array([[200, 20, 10]], np.float32)
    expected = index.search(query, 6)
    damaged = [whole[:length] for length in range(0, len(whole), 5)]
    for i in range(len(whole)):
        damaged.append(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
    num_refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            found = load_index(path)
        except IndexRefusedError:
            num_refused += 1
        else:
            # Dates and the like, which nobody reads.
            assert found.search(query, 6) == expected
            assert found.made == index.made
    assert num_refused > 0.75 * len(damaged)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x89PNG\r\n\x1a\n" * 9])
def test_files_that_are_not_an_index_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(IndexRefusedError, match="not an index, or a damaged one"):
        load_index(tmp_path / "index")
    with pytest.raises(IndexRefusedError, match="wrote: make it again"):
        load_index(tmp_path / "index")
    with pytest.raises(IndexRefusedError, match="is a folder; expected a file"):
        load_index(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "nowhere")


def test_an_index_that_cannot_be_finished_leaves_the_old_one(
    index: SimilarIndex, tmp_path: Path
) -> None:
    path = tmp_path / "index"
    save_index(index, path)
    before = path.read_bytes()
    code = (
        "import resource, sys; from limelens.serve.tools.similar import load_index, save_index; "
        "index = load_index(sys.argv[1]); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "save_index(index, sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"File too large" in done.stderr
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["index"]
    with pytest.raises(IndexRefusedError, match="is a folder"):
        save_index(index, tmp_path)


def test_vectors_of_another_model_are_refused(
    index: SimilarIndex, models: Path, images: Path
) -> None:
    other = local_client(models / "colours" / "2", "cpu").embed(images / "loose.png")
    with pytest.raises(IndexRefusedError) as caught:
        index.check_model(other.model.name, other.model.version, other.model_digest)
    message = str(caught.value)
    assert "colours version 1" in message
    assert "colours version 2" in message
    assert index.made.digest[:12] in message
    same = local_client(models / "colours" / "1", "cpu").embed(images / "loose.png")
    index.check_model("another name", 7, same.model_digest)


def test_wrong_searches_are_refused(index: SimilarIndex) -> None:
    with pytest.raises(InvalidRequestError, match="0; expected at least 1"):
        index.search(np.ones((1, 3), np.float32), 0)
    for shape in ((1, 4), (3,)):
        with pytest.raises(InvalidRequestError, match=r"the index expects \(N, 3\)"):
            index.search(np.ones(shape, np.float32))
    assert index.search(np.ones((0, 3), np.float32)) == []


def test_a_zero_vector_is_similar_to_nothing(local: Client, tmp_path: Path) -> None:
    paint(tmp_path / "black.png", (0, 0, 0))
    paint(tmp_path / "red.png", (255, 0, 0))
    index = index_folder(local, tmp_path).index
    (neighbours,) = index.search(local.embed(tmp_path / "black.png").vectors)
    assert [one.similarity for one in neighbours] == [0, 0]


def collapsed(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors as of a trained network: alike but for a little in 16 directions."""
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(99).normal(size=16)
    return (mean + rng.normal(scale=0.005, size=(count, 16))).astype(np.float32)


def index_of(count: int) -> SimilarIndex:
    images = [IndexedImage(f"{i}.png", "") for i in range(count)]
    return build_index(collapsed(count, 0), images, Made("m", 1, "0" * 64, 16, "/nowhere"))


@pytest.mark.parametrize("count", [MIN_TO_CENTRE, 500])
def test_figures_tell_images_apart_that_the_network_sees_as_alike(
    count: int, tmp_path: Path
) -> None:
    index = index_of(count)
    queries = collapsed(20, 1)
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert (units @ units.T).min() > 0.9999
    save_index(index, tmp_path / "index")
    for found in (index, load_index(tmp_path / "index")):
        for neighbours in found.search(queries, 5):
            assert len({f"{one.similarity:.4f}" for one in neighbours}) > 1
            assert neighbours[0].similarity < 0.99
        (itself,) = found.search(collapsed(count, 0)[7:8] * 3, 1)
        assert itself[0].path == "7.png"
        assert itself[0].similarity == pytest.approx(1, abs=1e-4)


def test_distances_are_between_vectors_as_the_model_gives_them(tmp_path: Path) -> None:
    save_index(index_of(60), tmp_path / "index")
    index = load_index(tmp_path / "index")
    plain = replace(index, space=FeatureSpace(), lengths=None)
    units = collapsed(60, 0) / np.linalg.norm(collapsed(60, 0), axis=1, keepdims=True)
    queries = np.concatenate([collapsed(3, 1), -collapsed(1, 2)])
    of_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = np.sort(1 - of_queries @ units.T, axis=1)[:, :2].mean(axis=1)
    assert index.distances(queries, 2) == pytest.approx(expected, abs=1e-5)
    assert plain.distances(queries, 2) != pytest.approx(expected, abs=1e-3)


def test_few_images_are_compared_as_the_model_gives_them() -> None:
    index = index_of(MIN_TO_CENTRE - 1)
    queries = collapsed(3, 1)
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert index.space.placed(queries) == pytest.approx(units, abs=1e-6)


def test_directions_in_which_images_differ_most_count_less() -> None:
    rng = np.random.default_rng(2)
    spread = np.array([10.0] + [1.0] * 31)
    vectors = (50 + rng.normal(size=(400, 32)) * spread).astype(np.float32)
    space = FeatureSpace.fitted(vectors)
    assert space.whitening is not None
    lengths = np.linalg.svd(space.whitening, compute_uv=False)
    assert lengths.min() < 0.8 * lengths.max()
    same = np.ones((10, 4), np.float32)
    assert FeatureSpace.fitted(np.repeat(same, 9, axis=0)).placed(same) == pytest.approx(
        0, abs=1e-3
    )


def test_an_older_index_is_searched_as_it_was(tmp_path: Path) -> None:
    index = index_of(60)
    older = replace(index, space=FeatureSpace())
    save_index(older, tmp_path / "whole")
    with (
        zipfile.ZipFile(tmp_path / "whole") as whole,
        zipfile.ZipFile(tmp_path / "old", "w") as old,
    ):
        text, stored = whole.read("index.json").decode(), whole.read("vectors.faiss")
        old.writestr("index.json", text.replace('"format": 2', '"format": 1'))
        old.writestr("vectors.faiss", stored)
    queries = collapsed(3, 1)
    assert load_index(tmp_path / "old").search(queries) == older.search(queries)
    # A new one that has lost its space is no older one.
    with zipfile.ZipFile(tmp_path / "cut", "w") as cut:
        cut.writestr("index.json", text)
        cut.writestr("vectors.faiss", stored)
    with pytest.raises(IndexRefusedError, match="format 2; this limelens reads 1 and 2: make it"):
        load_index(tmp_path / "cut")


def test_a_graph_finds_what_comparing_with_all_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    vectors = (centres[rng.integers(0, 20, 2000)] + rng.normal(size=(2000, 64))).astype(np.float32)
    images = [IndexedImage(f"{i}.png", "") for i in range(2000)]
    made = Made("random", 1, "0" * 64, 64, "/nowhere")
    exact = build_index(vectors, images, made)
    graph = build_index(vectors, images, made, exact=False)
    save_index(graph, tmp_path / "graph")
    graph = load_index(tmp_path / "graph")
    assert exact.is_exact
    assert not graph.is_exact
    queries = vectors[:200] + rng.normal(scale=0.3, size=(200, 64)).astype(np.float32)
    shared = [
        len({one.path for one in a} & {one.path for one in b}) / 5
        for a, b in zip(exact.search(queries), graph.search(queries), strict=True)
    ]
    assert np.mean(shared) > 0.99
    placed = exact.space.placed(vectors)
    best = np.argmax(placed @ exact.space.placed(queries[7:8])[0])
    assert exact.search(queries[7:8], 1)[0][0].path == f"{best}.png"
    assert len(graph.search(queries[:1], 5000)[0]) <= 2000


def test_a_sheet_shows_queries_and_neighbours(images: Path, tmp_path: Path) -> None:
    red, blue = images / "train/warm/red.png", images / "train/cold/blue.png"
    rows = [
        (Panel(red, ("red.png", "asked about")), [Panel(red, ("warm", "1.0000"))] * 10),
        (Panel(blue, ("blue.png" * 20, "")), [Panel(tmp_path / "gone.png", ("änne", "0.5"))]),
    ]
    missing = write_sheet(rows, tmp_path / "sheet.png")
    assert missing == (tmp_path / "gone.png",)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    # Three lines: ten neighbours take two, and the second query one.
    assert pixels.shape[0] == pytest.approx(3 * 218, abs=20)
    assert tuple(pixels[90, 90]) == (250, 10, 10)
    assert tuple(pixels[90, 290]) == (250, 10, 10)
    assert tuple(pixels[2 * 218 + 90, 90]) == (10, 10, 250)


def test_faiss_is_loaded_where_needed_and_named_where_missing() -> None:
    code = (
        "import sys; import limelens.cli.app, limelens.serve.tools.similar; "
        "assert 'faiss' not in sys.modules; sys.modules['faiss'] = None; "
        "limelens.serve.tools.similar.load_index('x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'limelens[similar]'" in done.stderr
