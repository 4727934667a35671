from __future__ import annotations

import io
import os
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.waiting import until

from limelens.bulk.sources import InputError, Item, Place, Reader, open_source
from limelens.serve.fetching import FetchLimits


def items(given: Path | str, most: int = 100, column: str = "") -> list[Item]:
    return [item for chunk in open_source(str(given), column).chunks(most) for item in chunk]


def read(given: Path | str, column: str = "") -> dict[str, bytes | str]:
    """The bytes of every image by name, or why there are none."""
    source = open_source(str(given), column)
    with closing(Reader(source.column, FetchLimits(max_bytes=1000, num_retries=0))) as reader:
        images = [image for chunk in source.chunks(2) for image in reader.read(chunk)]
    return {image.path: image.error if image.data is None else image.data for image in images}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return folder


class TestFolders:
    def test_images_below_are_sorted_and_other_files_left_out(self, tmp_path: Path) -> None:
        write(tmp_path, "b/2.png", "a.jpg", "b/1.WEBP", "notes.txt", ".hidden.png", "b/plain")
        assert list(read(tmp_path)) == ["a.jpg", "b/1.WEBP", "b/2.png", "b/plain"]

    def test_a_listed_folder_takes_hardly_more_memory_than_its_names(self, tmp_path: Path) -> None:
        names = [f"{number % 7}/image-{number:06}.jpg" for number in range(2000)]
        write(tmp_path, *names)
        tracemalloc.start()
        try:
            source = open_source(str(tmp_path))
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert list(source.names) == sorted(names)
        assert kept < 2 * sum(map(len, names))

    def test_links_that_form_a_loop_end(self, tmp_path: Path) -> None:
        write(tmp_path, "a/1.png")
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        assert list(read(tmp_path)) == ["a/1.png"]

    def test_what_cannot_be_reached_is_a_row_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, "a/1.png")
        (tmp_path / "a" / "gone.png").symlink_to("nowhere")
        (tmp_path / "notes.txt").symlink_to("nowhere")
        # Not even root can list a folder whose path is too long.
        monkeypatch.chdir(tmp_path)
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        found = read(tmp_path)
        monkeypatch.chdir(tmp_path)
        (deep,) = (name for name in found if name.startswith("d"))
        assert found.pop(deep) == "a folder that cannot be listed"
        assert "No such file" in str(found.pop("a/gone.png"))
        assert found == {"a/1.png": b"1.png"}

        table(tmp_path / "b" / "b.parquet", {"image": [b"b"]})
        (tmp_path / "a" / "1.png").unlink()
        (tmp_path / "a" / "gone.png").unlink()
        with pytest.raises(InputError, match="dd/ cannot be listed"):
            open_source(str(tmp_path))

    def test_a_name_that_is_not_utf_8_can_be_written_and_read(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"odd")
        assert read(tmp_path) == {"\\xff.png": b"odd"}

    def test_one_image_is_an_input(self, tmp_path: Path) -> None:
        assert read(write(tmp_path, "a.png") / "a.png") == {"a.png": b"a.png"}

    def test_what_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        write(tmp_path, "a.png", "large.png")
        (tmp_path / "large.png").write_bytes(bytes(1001))
        os.mkfifo(tmp_path / "pipe.png")
        gone = open_source(str(tmp_path))
        (tmp_path / "a.png").unlink()
        (chunk,) = gone.chunks(10)
        found = [image.error for image in Reader("", FetchLimits(max_bytes=1000)).read(chunk)]
        assert "No such file" in found[0]
        assert "more than 1,000 bytes" in found[1]

    def test_a_relative_folder_is_listed_by_its_content(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, "in/a.png")
        monkeypatch.chdir(tmp_path)
        assert list(read("in")) == list(read("./in/")) == ["a.png"]
        monkeypatch.chdir("in")
        assert list(read(".")) == ["a.png"]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ((), "nothing to read in it"),
            (("a.txt",), "nothing to read in it"),
            (("a.tar.gz",), "expected shards as plain .tar"),
            (("a.tar", "b.parquet"), "holds Parquet files and .tar shards"),
        ],
    )
    def test_a_folder_of_nothing_is_refused(
        self, tmp_path: Path, names: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            open_source(str(write(tmp_path, *names)))

    def test_a_place_where_nothing_is_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file or folder"):
            open_source(str(tmp_path / "*.tar"))

    @pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.png"])
    def test_a_pipe_is_refused_and_not_read(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="neither a file nor a folder"):
            open_source(str(tmp_path / name))

    def test_an_image_keeps_its_digest_when_others_come(self, tmp_path: Path) -> None:
        write(tmp_path, "b.png")
        (before,) = items(tmp_path)
        write(tmp_path, "a.png")
        assert items(tmp_path)[1].digest == before.digest


def table(path: Path, columns: dict[str, Any], row_group_size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


class TestTables:
    def test_encoded_images_are_read_by_row(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.parquet", {"image": [b"%d" % row for row in range(10)]})
        assert read(path) == {f"a.parquet#{row}": b"%d" % row for row in range(10)}

    def test_rows_may_be_read_in_any_order(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.parquet", {"jpg": [b"%d" % row for row in range(50)]}, 40)
        found = Reader("jpg").read(list(reversed(items(path))))
        assert [image.data for image in found] == [b"%d" % row for row in reversed(range(50))]

    def test_the_structs_of_hugging_face_are_read(self, tmp_path: Path) -> None:
        images = [{"bytes": b"a", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
        path = table(tmp_path / "a.parquet", {"label": [0, 1, 2], "image": images})
        empty = "the column image is empty there"
        assert list(read(path).values()) == [b"a", empty, empty]

    def test_paths_are_those_of_the_table(self, tmp_path: Path) -> None:
        write(tmp_path, "images/a.png")
        paths = ["images/a.png", "images/none.png", "ftp://a/b", None, "images/a.png"]
        path = table(tmp_path / "a.parquet", {"path": paths})
        assert [item.name for item in items(path)] == [*paths[:3], "a.parquet#3", paths[4]]
        assert len({item.digest for item in items(path)}) == 5
        errors = [str(one) for one in read(path).values()]
        assert "No such file" in errors[1]
        assert "ftp: is not read" in errors[2]
        assert errors[3] == "no URL"

    def test_urls_are_fetched(self, tmp_path: Path, site: Site) -> None:
        urls = [f"{site.url}/{name}" for name in ("a", "missing", "large", "b")]
        path = table(tmp_path / "a.parquet", {"url": urls})
        found = list(read(path).values())
        assert found == [
            b"/a", "HTTP status 404", "claims 2,000 bytes; the limit is 1,000", b"/b",
        ]  # fmt: skip

    def test_batches_of_urls_share_their_connections(self, tmp_path: Path, site: Site) -> None:
        urls = [f"{site.url}/{number}" for number in range(12)]
        assert len(read(table(tmp_path / "a.parquet", {"url": urls}))) == 12
        assert site.num_connections <= 2
        until(lambda: len(site.ended) == site.num_connections)

    def test_units_follow_row_groups_and_large_ones_are_divided(self, tmp_path: Path) -> None:
        small = table(tmp_path / "small.parquet", {"image": [b"a"] * 20}, 4)
        assert [len(one) for one in open_source(str(small)).chunks(10)] == [8, 8, 4]
        large = table(tmp_path / "large.parquet", {"image": [b"a"] * 100}, 100)
        assert [len(one) for one in open_source(str(large)).chunks(30)] == [30, 30, 30, 10]
        # A row group is read from its beginning each time.
        assert {len(one) for one in open_source(str(large)).chunks(2)} == {7, 2}

    def test_a_damaged_table_is_a_row_with_the_reason(self, tmp_path: Path) -> None:
        table(tmp_path / "a.parquet", {"image": [b"a"]})
        (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
        found = read(tmp_path)
        assert found["a.parquet#0"] == b"a"
        assert "the table cannot be read" in str(found["b.parquet"])

    @pytest.mark.parametrize("is_dictionary", [False, True])
    def test_a_path_that_is_not_utf_8_is_a_row_with_the_reason(
        self, tmp_path: Path, is_dictionary: bool
    ) -> None:
        write(tmp_path, "a.png")
        paths: Any = pa.array([b"a.png", b"\xff.png", None]).view(pa.string())
        path = table(
            tmp_path / "a.parquet", {"path": paths.dictionary_encode() if is_dictionary else paths}
        )
        assert read(path) == {"a.png": b"a.png", "\\xff.png": "not UTF-8", "a.parquet#2": "no URL"}

    @pytest.mark.parametrize("columns", [{"x": [b"a"]}, {"image": [{"path": "a.png"}]}])
    def test_a_table_that_changes_meanwhile_is_rows_with_the_reason(
        self, tmp_path: Path, columns: dict[str, Any]
    ) -> None:
        listed = items(table(tmp_path / "a.parquet", {"image": [b"a"]}))
        table(tmp_path / "a.parquet", columns)
        (image,) = Reader("image").read(listed)
        assert image.error == "the table has changed since it was listed"

    def test_structs_without_bytes_are_no_images(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.parquet", {"image": [{"bytes": "text"}]})
        with pytest.raises(InputError, match="no column of images"):
            open_source(str(path))

    def test_a_column_can_be_named_and_must_be_there(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.parquet", {"x": [b"x"], "y": [b"y"], "n": [1]})
        assert list(read(path, "y").values()) == [b"y"]
        with pytest.raises(InputError, match=r"found x \(binary\), y .* name one with --column"):
            open_source(str(path))
        assert "no column 'n' of images" in str(next(iter(read(path, "n").values())))


@dataclass
class Site:
    """A server on this machine."""

    url: str = ""
    num_connections: int = 0
    ended: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            site.num_connections += 1
            super().setup()

        def finish(self) -> None:
            super().finish()
            site.ended.append("a connection")

        def do_GET(self) -> None:
            body = bytes(2000) if self.path == "/large" else self.path.encode()
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def shard(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            data = name.encode() * 100
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


class TestShards:
    def test_the_images_of_samples_are_read(self, tmp_path: Path) -> None:
        long = "d" * 120 + "/1.png"
        shard(tmp_path / "a.tar", "0.jpg", "0.json", "0.cls", long)
        shard(tmp_path / "b.tar", "0.JPG")
        expected = {
            "a.tar/0.jpg": b"0.jpg",
            f"a.tar/{long}": long.encode(),
            "b.tar/0.JPG": b"0.JPG",
        }
        found = read(tmp_path)
        assert list(found) == list(expected)
        assert found["a.tar/0.jpg"] == b"0.jpg" * 100

    def test_a_pattern_names_shards(self, tmp_path: Path) -> None:
        shard(tmp_path / "x" / "a.tar", "0.jpg")
        shard(tmp_path / "y" / "b.tar", "0.jpg")
        assert list(read(tmp_path / "*" / "*.tar")) == ["x/a.tar/0.jpg", "y/b.tar/0.jpg"]

    @pytest.mark.parametrize("kept", [512 + 300, 1024 + 100, 1024 + 512 + 100, 2048])
    def test_a_shard_that_ends_too_early_has_its_images_and_the_reason(
        self, tmp_path: Path, kept: int
    ) -> None:
        path = shard(tmp_path / "a.tar", "0.jpg", "1.jpg", "2.jpg")
        path.write_bytes(path.read_bytes()[:kept])
        found = read(path)
        whole = [name for name, data in found.items() if isinstance(data, bytes)]
        num_whole = 1 if kept >= 1024 else 0
        num_whole += kept >= 2048
        assert whole == [f"a.tar/{number}.jpg" for number in range(num_whole)]
        assert f"cannot be read beyond {num_whole} images" in str(found["a.tar"])

    def test_what_is_no_shard_is_a_row(self, tmp_path: Path) -> None:
        shard(tmp_path / "a.tar", "0.jpg")
        (tmp_path / "b.tar").write_bytes(b"<html>" * 1000)
        (tmp_path / "c.tar").write_bytes(b"")
        found = read(tmp_path)
        assert isinstance(found.pop("a.tar/0.jpg"), bytes)
        assert set(found) == {"b.tar", "c.tar"}

    def test_items_are_parts_of_the_file(self, tmp_path: Path) -> None:
        (item,) = items(shard(tmp_path / "a.tar", "0.jpg"))
        assert (item.place, item.position % 512, item.size_bytes) == (Place.PART, 0, 500)

    @pytest.mark.parametrize(
        ("kind", "num_bytes", "reason"),
        [
            (tarfile.REGTYPE, -512, "has -512 bytes"),
            (tarfile.REGTYPE, 2**63, "too large"),
            (tarfile.GNUTYPE_LONGNAME, 2**40, "a head of"),
            (tarfile.XHDTYPE, 2**40, "a head of"),
        ],
    )
    def test_a_damaged_head_ends_a_shard(
        self, tmp_path: Path, kind: bytes, num_bytes: int, reason: str
    ) -> None:
        shard(tmp_path / "a.tar", "0.jpg")
        member = tarfile.TarInfo("1.txt")
        member.type, member.size = kind, num_bytes
        head = member.tobuf(tarfile.GNU_FORMAT)
        with (tmp_path / "a.tar").open("r+b") as file:
            file.seek(1024)  # after the head and the 500 bytes of the first
            file.write(head + bytes(4096))
        found = read(tmp_path)
        assert found["a.tar/0.jpg"] == b"0.jpg" * 100
        assert "cannot be read beyond 1 images" in str(found["a.tar"])
        assert reason in str(found["a.tar"])

    def test_heads_that_lead_back_end_a_shard(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for name, size in (("0.jpg", "0"), ("1.jpg", "-512")):
                member = tarfile.TarInfo(name)
                member.pax_headers = {"size": size}
                tar.addfile(member)
        found = read(tmp_path)
        assert found["a.tar/0.jpg"] == b""
        assert "1.jpg has -512 bytes" in str(found["a.tar"])

    def test_thousands_of_heads_for_one_member_end_a_shard(self, tmp_path: Path) -> None:
        head = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
        (tmp_path / "a.tar").write_bytes(head * 3000 + bytes(10240))
        assert "beyond 0 images" in str(read(tmp_path)["a.tar"])
