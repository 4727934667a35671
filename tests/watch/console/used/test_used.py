"""The page used as a guard and an operator use it, in a real browser, beside a real door."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.filming import GREEN, RED, FilmedCamera, filming
from tests.waiting import until
from tests.watch.console.conftest import save_explainable, set_users

from limelens.watch.console.access.users import Role

pytest.importorskip("skimage")
pytestmark = pytest.mark.ci

Open = Callable[..., Page]
DOOR = """
[server]
address = "{server}"
[[camera]]
id = "door"
source = "{source}"
window = 3
max_decision_age_s = 60
explain = "alerts"
[record]
path = "record"
thumbnails = true
frames = "alerts"
[console]
listen = "127.0.0.1:0"
users = "{users}"
review = "review"
"""


@pytest.fixture
def camera() -> Iterator[FilmedCamera]:
    with filming(GREEN) as camera:
        yield camera


@pytest.fixture
def page_address(
    camera: FilmedCamera, start_server: Callable[..., Any], tmp_path: Path, users: Path
) -> Iterator[str]:
    """The page of `limelens watch`, which watches the camera."""
    set_users(users, {"vera": Role.VIEWER, "otto": Role.OPERATOR})
    config = tmp_path / "door.toml"
    server = start_server(models=save_explainable(tmp_path / "models")).address
    config.write_text(DOOR.format(server=server, source=camera.url, users=users))
    messages = tmp_path / "messages"
    with messages.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", "watch", str(config), "--jsonl"],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "COLUMNS": "200"},
        )
    try:
        start = "the page is at "
        until(lambda: start in messages.read_text() or process.poll() is not None)
        yield messages.read_text().partition(start)[2].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def log_in(page: Page, address: str, name: str) -> None:
    """By the keyboard alone."""
    page.goto(address)
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(f"{name} has a password")
    page.keyboard.press("Enter")


def test_a_guard_sees_an_alert_come_and_why_and_an_operator_corrects_it(
    page_address: str, open_page: Open, camera: FilmedCamera, tmp_path: Path
) -> None:
    page = open_page()
    log_in(page, page_address, "otto")
    door = page.get_by_role("article", name="door")
    expect(door.get_by_text("Clear", exact=True)).to_be_visible()
    camera.colour = RED
    expect(door.get_by_text("Alert", exact=True)).to_be_visible()
    expect(door).to_contain_text("red")

    door.get_by_role("link", name="Why").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Alert red")
    # The explanation comes a little later, and shows itself.
    expect(page.get_by_role("heading", name="Why red")).to_be_visible()
    expect(page.get_by_text("for red").first).to_be_visible()
    overlay = page.locator(".over")
    expect(overlay).to_have_css("opacity", "0.8")
    slider = page.get_by_label("Overlay")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(overlay).to_have_css("opacity", "0.7")

    expect(page.locator("#replayed")).to_contain_text("As it was decided.")
    page.get_by_label("Least probability").fill("1")
    expect(page.locator("#replayed")).to_contain_text("That is not what was decided.")
    expect(page.locator("#replayed")).to_contain_text("Unknown")

    page.get_by_label("It should have been").select_option("green")
    page.get_by_role("button", name="Mark as wrong").click()
    expect(page.get_by_text("Marked as wrong. It should have been green.")).to_be_visible()
    (frame,) = (tmp_path / "review" / "green").iterdir()
    assert frame.stat().st_size > 0

    page.get_by_role("link", name="Events", exact=True).click()
    page.get_by_role("navigation", name="State").get_by_role("link", name="Alert").click()
    page.get_by_text("Filter", exact=True).press("Enter")
    page.get_by_label("Camera").select_option("door")
    page.get_by_label("From").fill("2020-01-31")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("One event")
    row = page.locator(".event")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Marked as wrong: green")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download as CSV").click()
    with downloading.value.path().open(newline="") as file:
        (exported,) = csv.DictReader(file)
    assert (exported["camera_id"], exported["state"]) == ("door", "alert")
    assert (exported["label"], exported["right_label"]) == ("red", "green")
    assert frame.stem == exported["id"]

    # What happens meanwhile is told, and an event leads back to what was filtered.
    camera.colour = GREEN
    page.get_by_role("link", name="Leave out: from 2020-01-31").click()
    page.get_by_role("link", name="All", exact=True).click()
    row.filter(has_text="red").first.click()
    page.get_by_role("link", name="Back to the events").click()
    expect(row.filter(has_text="green").first).to_be_visible()


def test_a_viewer_sees_everything_and_changes_nothing(
    page_address: str, open_page: Open, camera: FilmedCamera
) -> None:
    page = open_page("phone")
    log_in(page, page_address, "vera")
    camera.colour = RED
    door = page.get_by_role("article", name="door")
    expect(door.get_by_text("Alert", exact=True)).to_be_visible()  # else it is why it was clear
    door.get_by_role("link", name="Why").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("red")
    expect(page.get_by_text("What was decided")).to_be_visible()
    expect(page.get_by_text("Was that wrong?")).to_have_count(0)
    page.get_by_role("link", name="Try", exact=True).click()
    expect(page.get_by_text("Only operators may do that.")).to_be_visible()
    page.get_by_text("vera").click()
    page.get_by_role("button", name="Log out").click()
    page.goto(f"{page_address}/events")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
