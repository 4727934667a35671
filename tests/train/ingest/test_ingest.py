"""Ingesting from a real server on loopback whose responses are mostly hostile."""

from __future__ import annotations

import csv
import gzip
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from tests.conftest import serving
from tests.waiting import until

from limelens.serve.fetching import FetchError, FetchLimits, resolve
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError
from limelens.train.data.near_duplicates import COPY, first_of_kind, perceptual_hash
from limelens.train.ingest.pipeline import IngestConfig, ingest
from limelens.train.ingest.url_table import read_table

Respond = Callable[["Handler"], object]
QUICK = IngestConfig(
    limits=FetchLimits(timeout_s=60.0, max_bytes=300_000, num_retries=2, backoff_s=0.01)
)


def random_image(seed: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """An image like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Responds as registered for the path of the request."""

    server: HostileServer

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.server.responses[self.path](self)

    def log_message(self, *_: object) -> None:
        pass

    def reply(
        self, body: bytes = b"", status: int = 200, *, length: int | None = -1, **headers: str
    ) -> None:
        """Sends a response; a length of None is not sent."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class HostileServer(ThreadingHTTPServer):
    """A server on loopback that counts requests by path."""

    # With the default of 5, the 6th of many at once waits a second for its second try.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[str] = Counter()
        self.responses: dict[str, Respond] = {}
        self.stopped = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Ignores clients that hang up, as these tests expect."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def add(self, path: str, response: Respond) -> str:
        self.responses[path] = response
        return self.url(path)

    def add_bytes(self, path: str, body: bytes, **options: Any) -> str:
        return self.add(path, lambda handler: handler.reply(body, **options))

    def add_image(self, number: int) -> str:
        return self.add_bytes(f"/{number}.jpg", encoded(random_image(number)))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HostileServer()
    with serving(server):
        yield server
        server.stopped.set()


def write_table(path: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "id", "url"), *rows])
    return path


def left_out(out: Path) -> dict[str, str]:
    with (out / "left_out.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def contents(out: Path) -> dict[str, bytes]:
    """What was written, but for the state."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".ingest" not in path.parts
    }


@pytest.fixture
def result_of(server: HostileServer, tmp_path: Path) -> Callable[..., str]:
    """Ingests one URL beside a good one; the reason why it was left out, or 'kept'."""

    def ingest_one(url: str, config: IngestConfig = QUICK) -> str:
        rows = [("a", "good", server.add_image(0)), ("b", "tried", url)]
        report = ingest(write_table(tmp_path / "items.csv", rows), tmp_path / "data", config)
        reasons = left_out(tmp_path / "data")
        assert set(reasons) <= {"tried"}, "the good image was lost too"
        assert report["num_images"] + report["left_out"] == 2
        return reasons.get("tried", "kept")

    return ingest_one


# What a server may do.


def test_a_dead_link_is_requested_once(server: HostileServer, result_of: Any) -> None:
    url = server.add_bytes("/dead", b"gone", status=404)
    assert result_of(url) == "HTTP status 404"
    assert server.requests["/dead"] == 1


def test_a_server_error_that_passes_is_overcome(server: HostileServer, result_of: Any) -> None:
    def respond(handler: Handler) -> None:
        if server.requests["/flaky"] < 3:
            handler.reply(b"busy", status=500 if server.requests["/flaky"] == 1 else 429)
        else:
            handler.reply(encoded(random_image(1)))

    assert result_of(server.add("/flaky", respond)) == "kept"
    assert server.requests["/flaky"] == 3


def test_a_lasting_server_error_is_retried_up_to_the_limit(
    server: HostileServer, result_of: Any
) -> None:
    assert result_of(server.add_bytes("/down", b"", status=503)) == "HTTP status 503"
    assert server.requests["/down"] == 3


def test_retry_after_is_waited_for(server: HostileServer, result_of: Any) -> None:
    times = []

    def respond(handler: Handler) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            handler.reply(b"", status=503, Retry_After="1")
        else:
            handler.reply(encoded(random_image(1)))

    assert result_of(server.add("/later", respond)) == "kept"
    assert times[1] - times[0] >= 1


def test_a_refused_connection_and_an_unknown_host_are_left_out(result_of: Any) -> None:
    assert "no connection" in result_of("http://127.0.0.1:9/a.jpg")
    assert "no connection" in result_of("http://no-such-host.invalid/a.jpg")


def test_redirects_are_followed(server: HostileServer, result_of: Any) -> None:
    server.add_image(1)
    server.add_bytes("/two", b"", status=301, Location="/1.jpg")
    assert (
        result_of(server.add_bytes("/one", b"", status=302, Location=server.url("/two"))) == "kept"
    )


def test_a_redirect_loop_ends(server: HostileServer, result_of: Any) -> None:
    url = server.add_bytes("/loop", b"", status=302, Location="/loop")
    assert result_of(url) == "more than 5 redirects"
    assert server.requests["/loop"] == 6


@pytest.mark.parametrize("kind", ["file", "ftp", "nothing"])
def test_a_redirect_to_anything_but_the_web_is_refused(
    server: HostileServer, result_of: Any, tmp_path: Path, kind: str
) -> None:
    random_image(1).save(tmp_path / "secret.jpg")
    target = {
        "file": (tmp_path / "secret.jpg").as_uri(),
        "ftp": "ftp://127.0.0.1/a.jpg",
        "nothing": "http://127.0.0.1:port/",
    }[kind]
    reason = result_of(server.add_bytes("/away", b"", status=302, Location=target))
    assert "redirects to " in reason or "Invalid URL in location" in reason
    assert server.requests["/away"] == 1


def test_a_redirect_further_into_the_network_is_refused(
    server: HostileServer, result_of: Any
) -> None:
    secrets = "http://169.254.169.254/latest/meta-data/"
    url = server.add_bytes("/in", b"", status=302, Location=secrets)
    assert result_of(url) == (
        "redirects from '127.0.0.1' (machine) further in, to '169.254.169.254' (link)"
    )
    assert server.requests["/in"] == 1


def test_the_body_of_a_redirect_is_not_read(server: HostileServer, result_of: Any) -> None:
    sent = 0

    def respond(handler: Handler) -> None:
        nonlocal sent
        handler.reply(b"", status=302, length=None, Location="/1.jpg")
        while sent < 200_000_000:
            sent += handler.wfile.write(bytes(100_000))

    server.add_image(1)
    assert result_of(server.add("/long-redirect", respond)) == "kept"
    assert sent < 50_000_000


@pytest.mark.parametrize("where", ["start", "header", "body"])
def test_slow_and_trickling_responses_end_at_the_deadline(
    server: HostileServer, result_of: Any, where: str
) -> None:
    def respond(handler: Handler) -> None:
        if where == "start":
            server.stopped.wait(60)
            return
        if where == "body":
            handler.reply(length=5000)
        line = b"x" if where == "body" else b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000
        for byte in line * 2000:
            handler.wfile.write(bytes([byte]))
            if server.stopped.wait(0.02):
                return

    # The good image is there already, however long it took.
    result_of(server.add_bytes("/dead", b"gone", status=404))
    url = server.add("/slow", respond)
    start = time.monotonic()
    config = replace(QUICK, limits=replace(QUICK.limits, timeout_s=0.4, num_retries=1))
    assert result_of(url, config) == "no complete response within 0.4 s"
    assert time.monotonic() - start < 30
    until(lambda: server.requests["/slow"] == 2)


def test_a_claim_of_5_gb_is_refused_at_once(server: HostileServer, result_of: Any) -> None:
    def respond(handler: Handler) -> None:
        handler.reply(b"\xff\xd8", length=5_000_000_000)
        server.stopped.wait(60)

    start = time.monotonic()
    reason = result_of(server.add("/huge", respond), replace(QUICK, limits=FetchLimits()))
    assert reason == "claims 5,000,000,000 bytes; the limit is 20,000,000"
    assert time.monotonic() - start < 30
    assert server.requests["/huge"] == 1


def test_an_endless_body_is_read_up_to_the_limit(server: HostileServer, result_of: Any) -> None:
    sent = 0

    def respond(handler: Handler) -> None:
        nonlocal sent
        handler.reply(length=None)
        while sent < 200_000_000:
            sent += handler.wfile.write(bytes(100_000))

    assert (
        result_of(server.add("/endless", respond)) == "more than 300,000 bytes, which is the limit"
    )
    assert sent < 50_000_000


def test_a_truncated_body_is_requested_again(server: HostileServer, result_of: Any) -> None:
    def respond(handler: Handler) -> None:
        whole = encoded(random_image(1))
        half = whole[: len(whole) // 2] if server.requests["/broken"] == 1 else whole
        handler.reply(half, length=len(whole))

    assert result_of(server.add("/broken", respond)) == "kept"
    body = encoded(random_image(2))
    assert "no valid response" in result_of(
        server.add_bytes("/short", body[:500], length=len(body))
    )
    # Without a length, only the image shows that it is truncated.
    assert "damaged" in result_of(server.add_bytes("/cut", body[:500], length=None))


def test_a_server_without_http_is_left_out(server: HostileServer, result_of: Any) -> None:
    reason = result_of(server.add("/noise", lambda handler: handler.wfile.write(b"\0" * 200)))
    assert "no valid response" in reason


def test_the_content_counts_and_not_its_declared_type(
    server: HostileServer, result_of: Any
) -> None:
    page = b"<!DOCTYPE html><html>not found</html>"
    assert "an HTML page" in result_of(server.add_bytes("/a.jpg", page, Content_Type="image/jpeg"))
    body = encoded(random_image(1), "PNG")
    assert result_of(server.add_bytes("/b.html", body, Content_Type="text/html")) == "kept"


def test_gzip_is_unpacked_up_to_the_limit(server: HostileServer, result_of: Any) -> None:
    small = gzip.compress(encoded(random_image(1)))
    assert result_of(server.add_bytes("/packed", small, Content_Encoding="gzip")) == "kept"
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < QUICK.limits.max_bytes
    reason = result_of(server.add_bytes("/bomb", bomb, Content_Encoding="gzip"))
    assert reason == "more than 300,000 bytes, which is the limit"
    assert "packed as 'br'" in result_of(server.add_bytes("/br", b"x", Content_Encoding="br"))
    assert "damaged gzip" in result_of(server.add_bytes("/no", b"xxx", Content_Encoding="gzip"))
    assert "too early" in result_of(server.add_bytes("/half", small[:99], Content_Encoding="gzip"))


def test_bytes_after_the_end_of_a_gzip_count_too(server: HostileServer, result_of: Any) -> None:
    body = gzip.compress(encoded(random_image(1))) + bytes(400_000)
    reason = result_of(server.add_bytes("/tail", body, length=None, Content_Encoding="gzip"))
    assert reason == "more than 300,000 bytes, which is the limit"


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    server: HostileServer, result_of: Any
) -> None:
    body = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert "pixels" in result_of(server.add_bytes("/bomb.png", body))


def test_cookies_are_not_sent_back(server: HostileServer, result_of: Any) -> None:
    cookies = []

    def respond(handler: Handler) -> None:
        cookies.append(handler.headers["Cookie"])
        handler.reply(b"", status=302, Set_Cookie="seen=1", Location="/1.jpg")

    def last(handler: Handler) -> None:
        cookies.append(handler.headers["Cookie"])
        handler.reply(encoded(random_image(1)))

    server.add("/1.jpg", last)
    assert result_of(server.add("/cookie", respond)) == "kept"
    assert cookies == [None, None]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://127.0.0.1/a.jpg",
        "data:image/png;base64,AAAA",
        "http://",
        "http:///a.jpg",
        "http://[::1/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1:port/a.jpg",
        "http://" + "a" * 300 + "/a.jpg",
        "http://ex ample/a.jpg",
        "http://..../a.jpg",
        "http://127.0.0.1/a\x1b[31m.jpg",
        "http://127.0.0.1/" + "a" * 70_000,
        "file://elsewhere/a.jpg",
        "file:",
        "no/such/file.jpg",
        "file:///dev/zero",
        "a\0b.jpg",
    ],
)
def test_a_url_that_cannot_be_requested_is_left_out(result_of: Any, url: str) -> None:
    reason = result_of(url)
    assert reason != "kept"
    assert reason.isprintable()


# Files.


def test_files_are_read_relative_to_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    (folder / "my images").mkdir(parents=True)
    names = ["plain #1?.jpg", "100%25.jpg", "spaced é.jpg", "absolute.jpg"]
    for seed, name in enumerate(names):
        random_image(seed).save(folder / "my images" / name)
    table = write_table(
        folder / "items.csv",
        [
            ("a", "0", "my images/plain #1?.jpg"),
            ("a", "1", "my images/100%25.jpg"),
            ("a", "2", "file:my%20images/spaced é.jpg"),
            ("a", "3", (folder / "my images" / "absolute.jpg").as_uri()),
        ],
    )
    assert ingest(table, tmp_path / "data")["num_images"] == 4


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", "x.png")])
    out = tmp_path / "data"
    assert ingest(table, out)["num_images"] == 0
    random_image(1).save(tmp_path / "x.png")
    assert ingest(table, out)["num_images"] == 1
    before = contents(out)
    random_image(2).save(tmp_path / "x.png")
    ingest(table, out)
    assert contents(out) != before


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(bytes(300_001))
    ingest(write_table(tmp_path / "items.csv", [("a", "x", "x.jpg")]), tmp_path / "data", QUICK)
    assert "has more than 300,000 bytes" in left_out(tmp_path / "data")["x"]


def test_a_drive_is_not_a_scheme(tmp_path: Path) -> None:
    assert resolve("C:/x.jpg", tmp_path).startswith("file:")
    with pytest.raises(FetchError, match="expected http, https, file or a path"):
        resolve("javascript:alert(1)", tmp_path)


# Images.


def test_images_become_upright_jpegs_of_at_most_the_size(
    server: HostileServer, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    glass = random_image(1)
    glass.putalpha(0)
    rows = [
        ("a", "wide", server.add_bytes("/wide", encoded(random_image(2, (900, 300)), "PNG"))),
        ("a", "small", server.add_bytes("/small", encoded(random_image(3, (60, 40)), "WEBP"))),
        (
            "a",
            "turned",
            server.add_bytes("/turned", encoded(random_image(4, (300, 150)), exif=turned)),
        ),
        ("a", "glass", server.add_bytes("/glass", encoded(glass, "PNG"))),
        ("a", "thin", server.add_bytes("/thin", encoded(random_image(5, (2000, 1)), "PNG"))),
    ]
    ingest(write_table(tmp_path / "items.csv", rows), tmp_path / "data")
    found = {path.stem: Image.open(path) for path in (tmp_path / "data").glob("*/a/*.jpg")}
    assert {name: image.size for name, image in found.items()} == {
        "wide": (224, 75), "small": (60, 40), "turned": (112, 224), "glass": (224, 149),
        "thin": (224, 1),
    }  # fmt: skip
    assert {(image.format, image.mode) for image in found.values()} == {("JPEG", "RGB")}
    assert found["glass"].getextrema() == ((255, 255),) * 3
    for image in found.values():
        image.close()


def test_copies_are_left_out_and_the_first_in_the_table_stays(
    server: HostileServer, tmp_path: Path
) -> None:
    original = random_image(1, (400, 300))
    brighter = original.point(lambda value: min(255, round(value * 1.05)))
    rows = [
        ("cat", "first", server.add_bytes("/first", encoded(original, "PNG"))),
        ("cat", "again", server.add_bytes("/again", encoded(original, "PNG"))),
        ("dog", "same-url", server.url("/first")),
        ("cat", "other", server.add_image(2)),
        ("cat", "small", server.add_bytes("/s", encoded(original.resize((200, 150)), quality=50))),
        ("dog", "bright", server.add_bytes("/bright", encoded(brighter))),
    ]
    report = ingest(write_table(tmp_path / "items.csv", rows), tmp_path / "data")
    assert report["num_images"] == 2
    assert left_out(tmp_path / "data") == {
        "again": "the same image as 'first' of line 2",
        "same-url": "the same image as 'first' of line 2, which has the label 'cat'",
        "small": "nearly the same image as 'first' of line 2",
        "bright": "nearly the same image as 'first' of line 2, which has the label 'cat'",
    }
    assert server.requests["/first"] == 1


def test_plain_images_of_other_colours_are_not_copies(tmp_path: Path) -> None:
    """Their difference hashes are all the same."""
    rows = []
    for index, colour in enumerate(["red", "green", "blue", "white", "black", "yellow"]):
        Image.new("RGB", (50, 50), colour).save(tmp_path / f"{colour}.png")
        rows.append(("ab"[index % 2], colour, f"{colour}.png"))
    report = ingest(write_table(tmp_path / "items.csv", rows), tmp_path / "data")
    assert report["num_images"] == 6
    assert report["splits"]["train"] < 6, "taken for one group"


def test_a_chain_of_small_steps_does_not_take_all_of_a_series() -> None:
    black = Image.new("RGB", (64, 64))
    steps = [Image.blend(black, Image.new("RGB", (64, 64), "white"), k / 20) for k in range(21)]
    hashes = [perceptual_hash(np.asarray(step), grid=4, frequencies=True) for step in steps]
    firsts = first_of_kind(hashes, COPY)
    assert firsts[1] == 0
    assert len(set(firsts.tolist())) > 5
    assert first_of_kind([], COPY).tolist() == []


# Splits.


@pytest.fixture
def forty(server: HostileServer, tmp_path: Path) -> Path:
    """A table of 40 images under two labels, with a few that are none."""
    rows = [(("cat", "dög")[n % 2], f"p{n}", server.add_image(n)) for n in range(40)]
    rows[10:10] = [("cat", "dead", server.add_bytes("/dead", b"", status=404))]
    rows[20:20] = [("cat", "page", server.add_bytes("/page", b"<html></html>"))]
    rows[30:30] = [("dög", "copy", server.add_bytes("/copy", encoded(random_image(3)), status=200))]
    return write_table(tmp_path / "items.csv", rows)


def test_the_data_is_ready_for_training(forty: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    report = ingest(forty, out, QUICK)
    assert report == {
        "data": str(out),
        "labels": ["cat", "dög"],
        "num_images": 40,
        "splits": {"train": 32, "val": 4, "test": 4},
        "left_out": 3,
        "table": str(out / "left_out.csv"),
        "warnings": [],
    }
    dataset = read_dataset(out)
    assert dataset.labels == ("cat", "dög")
    assert dataset.counts("train") == {"cat": 16, "dög": 16}
    assert dataset.counts("val") == {"cat": 2, "dög": 2}
    assert not dataset.skipped


def test_the_result_does_not_depend_on_the_order_of_responses(
    server: HostileServer, forty: Path, tmp_path: Path
) -> None:
    overtaken = threading.Semaphore(0)
    concurrency = 1

    def overtake(original: Respond, is_late: bool) -> Respond:
        def respond(handler: Handler) -> None:
            if not is_late:
                overtaken.release()
            elif concurrency > 1:
                overtaken.acquire(timeout=0.05)
            original(handler)

        return respond

    for number, (path, original) in enumerate(sorted(server.responses.items())):
        server.responses[path] = overtake(original, number % 2 == 0)
    results = []
    for concurrency in (1, 3, 16):
        out = tmp_path / f"data{concurrency}"
        ingest(forty, out, replace(QUICK, concurrency=concurrency))
        results.append(contents(out))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 41


def test_the_seed_decides_the_division(forty: Path, tmp_path: Path) -> None:
    names = []
    for seed in (0, 0, 1):
        ingest(forty, tmp_path / "data", replace(QUICK, seed=seed))
        names.append(set(contents(tmp_path / "data")))
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == len(names[2]) == 41


def test_a_warning_reports_what_prevents_training(server: HostileServer, tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", server.add_image(1))])
    assert ingest(table, tmp_path / "data")["warnings"] == [
        "label 'a' has no image for val; limelens train needs one",
        "'a' is the only label; limelens train needs two",
    ]


# Going on.


def test_a_second_run_fetches_nothing_again(
    server: HostileServer, forty: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    ingest(forty, out, QUICK)
    before = contents(out)
    assert set(server.requests.values()) == {1}
    ingest(forty, out, QUICK)
    assert set(server.requests.values()) == {1}
    assert contents(out) == before


def test_a_journal_keeps_the_keys_that_earlier_versions_wrote(
    server: HostileServer, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", server.add_image(1))])
    ingest(table, tmp_path / "data", QUICK)
    (line,) = (tmp_path / "data" / ".ingest" / "journal.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert {*entry} == {"url", "made_by", "picture", "size_bytes", "fingerprint"}
    assert {*entry["fingerprint"]} == {"gradients", "frequencies", "colours"}
    assert len(bytes.fromhex(entry["fingerprint"]["colours"])) == 4 * 4 * 3


def test_a_longer_table_fetches_what_was_added(
    server: HostileServer, forty: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    ingest(forty, out, QUICK)
    with forty.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(("cat", f"p{n}", server.add_image(n)) for n in range(40, 50))
    assert ingest(forty, out, QUICK)["num_images"] == 50
    assert set(server.requests.values()) == {1}
    once, twice = contents(tmp_path / "once"), contents(out)
    ingest(forty, tmp_path / "once", QUICK)
    once = contents(tmp_path / "once")
    assert once == twice


def test_a_truncated_journal_and_a_lost_image_cost_one_request_each(
    server: HostileServer, forty: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    ingest(forty, out, QUICK)
    before = contents(out)
    journal = out / ".ingest" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lost = next(json.loads(line) for line in lines if b'"picture"' in line)
    (out / ".ingest" / "pictures" / f"{lost['picture']}.jpg").write_bytes(b"half")
    (out / ".ingest" / "pictures" / "left.behind.tmp").write_bytes(b"half")
    journal.write_bytes(b"".join(lines)[:-7])
    server.requests.clear()
    for _ in range(2):
        ingest(forty, out, QUICK)
        assert server.requests.total() == 2
        assert contents(out) == before
    assert not list(out.rglob("*.tmp"))


def test_transient_failures_are_retried_and_others_on_request(
    server: HostileServer, tmp_path: Path
) -> None:
    rows = [
        ("a", "down", server.add_bytes("/down", b"", status=503)),
        ("a", "dead", server.add_bytes("/dead", b"", status=404)),
        ("a", "large", server.add_bytes("/large", bytes(300_001))),
    ]
    table, out = write_table(tmp_path / "items.csv", rows), tmp_path / "data"
    config = replace(QUICK, limits=replace(QUICK.limits, num_retries=0))
    for _ in range(2):
        assert ingest(table, out, config)["num_images"] == 0
    assert server.requests == {"/down": 2, "/dead": 1, "/large": 1}
    server.add_bytes("/dead", encoded(random_image(1)))
    assert ingest(table, out, replace(config, retry_failed=True))["num_images"] == 1
    # Another limit may give another result.
    server.requests.clear()
    ingest(table, out, replace(config, limits=replace(config.limits, max_bytes=10**6)))
    assert server.requests == {"/down": 1, "/large": 1}


def test_another_size_is_fetched_anew(server: HostileServer, tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", server.add_image(1))])
    for size_px in (100, 50, 100):
        ingest(table, tmp_path / "data", replace(QUICK, size_px=size_px))
        (path,) = (tmp_path / "data").glob("*/a/x.jpg")
        with Image.open(path) as image:
            assert max(image.size) == size_px
    assert server.requests["/1.jpg"] == 2


def test_removed_rows_lose_their_files_and_other_files_stay(forty: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    ingest(forty, out, QUICK)
    (out / "train" / "cat" / "mine.jpg").write_bytes(b"mine")
    lines = forty.read_text("utf-8").splitlines()
    forty.write_text("\n".join(line for line in lines if "dög" not in line), "utf-8")
    ingest(forty, out, QUICK)
    assert (out / "train" / "cat" / "mine.jpg").read_bytes() == b"mine"
    assert not list(out.glob("*/dög"))


def test_a_run_that_gets_nothing_leaves_the_data_as_it_is(
    server: HostileServer, forty: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    ingest(forty, out, QUICK)
    before = contents(out)
    for path in server.responses:
        server.add_bytes(path, b"", status=404)
    assert ingest(forty, out, replace(QUICK, size_px=99))["num_images"] == 0
    after = contents(out)
    assert {name: after[name] for name in after if name != "left_out.csv"} == {
        name: before[name] for name in before if name != "left_out.csv"
    }


def test_where_there_are_no_hard_links_images_are_copied(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert ingest(forty, tmp_path / "data", QUICK)["num_images"] == 40
    assert len(list((tmp_path / "data").glob("t*/*/*.jpg"))) == 36


async def test_it_runs_where_a_loop_runs_already(forty: Path, tmp_path: Path) -> None:
    assert ingest(forty, tmp_path / "data", QUICK)["num_images"] == 40


# Folders that cannot be used.


def test_splits_that_no_ingest_wrote_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "validation").mkdir(parents=True)
    table = write_table(tmp_path / "items.csv", [("a", "x", "x.jpg")])
    with pytest.raises(DataError, match="data holds validation, which no ingest wrote"):
        ingest(table, tmp_path / "data")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", "x.jpg")])
    (tmp_path / "data" / ".ingest").mkdir(parents=True)
    with (
        FileLock(tmp_path / "data" / ".ingest" / "lock", is_singleton=False),
        pytest.raises(DataError, match="another ingest is writing to"),
    ):
        ingest(table, tmp_path / "data")


def test_the_table_of_what_was_left_out_is_not_taken_for_the_table(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table = write_table(tmp_path / "data" / "left_out.csv", [("a", "x", "x.jpg")])
    with pytest.raises(DataError, match="give the original table"):
        ingest(table, tmp_path / "data")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.csv", [("a", "x", "x.jpg")])
    with pytest.raises(DataError, match=r"items.csv.*: Not a directory"):
        ingest(table, table / "data")


def test_a_write_that_fails_in_the_middle_stops_the_run(
    forty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="somewhere: No space left on device"):
        ingest(forty, tmp_path / "data", QUICK)


# Tables.


def rows_of(path: Path, text: str) -> list[tuple[int, str, str, str]]:
    path.write_bytes(text.encode())
    return [(row.line, row.label, row.id, row.url) for row in read_table(path)]


@pytest.mark.parametrize(
    "text",
    [
        "label,id,url\ncat,x,http://h/a,b\n".replace("a,b", "a.jpg"),
        "label\tid\turl\ncat\tx\thttp://h/a.jpg\n",
        "\ufeffID,Note,URL,Label\r\nx,hello,http://h/a.jpg,cat\r\n",
        'label, id, url\n cat , x ,"http://h/a.jpg"',
    ],
)
def test_tsv_and_csv_are_read_with_columns_in_any_order(tmp_path: Path, text: str) -> None:
    assert rows_of(tmp_path / "t", text) == [(2, "cat", "x", "http://h/a.jpg")]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = 'label,id,url,note\n\na,1,u,"two\nlines"\n,,,\na,2,u,\n'
    assert [row[0] for row in rows_of(tmp_path / "t.csv", text)] == [3, 6]


def test_names_may_be_in_any_script_and_are_normalised(tmp_path: Path) -> None:
    text = "label,id,url\ncafe\u0301,写真 1,u\ncaf\u00e9,2,u\n"
    assert {row[1] for row in rows_of(tmp_path / "t.csv", text)} == {"café"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv is empty"),
        ("\n\n", "t.csv is empty"),
        ("label,id,url\n", "has a header and no row"),
        ("label,url\na,b\n", "line 1: the column id is missing; found 'label', 'url'"),
        ("label|id|url\na|b|c\n", "line 1: the column label is missing; found 'label|id|url'"),
        ("label,id,url,id\na,b,c,d\n", "line 1: the column id is twice"),
        ("label,id,url\na,b\n", "line 2: 2 cells; expected 3"),
        ("label,id,url\na,b,http://h/a,b\n", r"line 2: 4 cells; expected 3 .* needs quotes"),
        ("label,id,url\na,x,u\nb,x,v\n", "line 3: id 'x' is already in line 2"),
        ("label,id,url\n,x,u\n", "line 2: label is empty"),
        ("label,id,url\na, ,u\n", "line 2: id is empty"),
        ("label,id,url\n../b,x,u\n", "line 2: label '../b' cannot name a folder: it begins"),
        ("label,id,url\na,x/../../y,u\n", "id 'x/../../y' cannot name a file: it holds '/'"),
        ("label,id,url\na,x\\y,u\n", r"id 'x\\\\y' cannot name a file: it holds '\\\\'"),
        ("label,id,url\n.,x,u\n", "label '.' cannot name a folder: it begins with a dot"),
        ("label,id,url\na,x\0y,u\n", "line 2: "),
        ('label,id,url\na,"x\ny",u\n', r"line 2: id 'x\\ny' cannot name a file: it holds '\\n'"),
        (f"label,id,url\na,{'é' * 126},u\n", "256 bytes with its suffix; at most 255"),
        ('label,id,url\na,b,c\na,"x,u\n', "line 3: unexpected end of data"),
        ("label,id,url\n" + "a,.x,u\n" * 9, r"(line \d: id '.x'.*){5}and 4 more"),
    ],
)
def test_an_unusable_table_is_refused_by_file_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        rows_of(tmp_path / "t.csv", text)
    assert "t.csv" in str(refused.value)


def test_a_missing_or_unreadable_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv: No such file"):
        read_table(tmp_path / "nowhere.csv")
    (tmp_path / "t.csv").write_bytes("label,id,url\na,1,u\nä,2,u\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv line 3: not UTF-8"):
        read_table(tmp_path / "t.csv")


def test_nothing_is_fetched_for_a_table_that_is_refused(
    server: HostileServer, tmp_path: Path
) -> None:
    url = server.add_image(1)
    table = write_table(tmp_path / "items.csv", [("a", "x", url), ("a", "x", url)])
    with pytest.raises(DataError):
        ingest(table, tmp_path / "data")
    assert not server.requests
    assert not (tmp_path / "data").exists()


def test_an_impossible_setting_is_refused() -> None:
    with pytest.raises(DataError, match="concurrency is 0; expected 1 or more"):
        IngestConfig(concurrency=0)
