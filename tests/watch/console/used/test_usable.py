"""Every page at both widths, light and dark: nothing serious by axe-core, nothing cut off.

And the tab for trying an image, whose work is done by a script.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from tests.detectors import BLUE, RED, frame_of, save_detector
from tests.waiting import slow_by
from tests.watch.console.conftest import save_explainable
from tests.watch.console.used.conftest import WIDTHS
from tests.watch.record.made import alert, explanation, jpeg, lost

from limelens.serve import Bundle, Client
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.live import LiveCamera, LiveCameras, LiveFrame
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

pytest.importorskip("skimage")
pytestmark = pytest.mark.ci

Open = Callable[..., Page]
LOOKS = [
    pytest.param(width, scheme, language, id=f"{width}-{scheme}", marks=marks)
    for width, scheme, language, marks in (
        ("phone", "dark", "en-GB", ()),
        ("phone", "light", "de-DE", pytest.mark.slow),
        ("desktop", "dark", "en-GB", pytest.mark.slow),
        ("desktop", "light", "de-DE", ()),
    )
]  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "people.png"
    Image.fromarray(frame_of([(40, 40, 40, BLUE), (320, 160, 160, RED)])).save(path)
    return path


@pytest.fixture
def server(start_server: Callable[..., Any], tmp_path: Path) -> Any:
    detector = save_detector(tmp_path / "detector")
    return start_server(models=save_explainable(tmp_path / "models"), face_detector=str(detector))


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[LiveCameras, Record]]:
    """Three cameras, one in each state, and what happened."""
    writer = RecordWriter(RecordSettings(path=tmp_path / "record", thumbnails=True))
    event = alert(camera_id="north-entrance")
    assert event.evidence is not None
    event = replace(event, evidence=replace(event.evidence, jpeg=jpeg(48, 48)))
    found = explanation(event.id, overlay_png=b"").explanation
    assert found is not None
    doubtful = replace(found, explanations=(replace(found.explanations[0], score=0.1),))
    for one in (lost(camera_id="south"), alert(camera_id="south"), event):
        writer.put(one)
    writer.explain(explanation(event.id, explanation=doubtful, overlay_png=b""))
    writer.close(60)
    live = LiveCameras()
    states = {"north-entrance": CameraState.ALERT, "dock": CameraState.CLEAR}
    for name in ("north-entrance", "dock", "south"):
        state = states.get(name, CameraState.UNKNOWN)
        live.put(
            LiveCamera(
                camera_id=name,
                source="rtsp://door/live",
                state=state,
                since=datetime.now(UTC),
                reason=UnknownReason.CAMERA_LOST if name == "south" else None,
                detail="the connection was refused" if name == "south" else "",
                label=None if name == "south" else "without_mask",
                probability=0.97,
                frame=None if name == "south" else LiveFrame(jpeg(640, 480), (), datetime.now(UTC)),
                last_event_id=event.id,
            )
        )
    with Record(tmp_path / "record") as record:
        yield live, record


def check(page: Page, axe: str) -> None:
    """Nothing serious is found, and nothing is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url
    page.evaluate(axe)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    serious = [
        {"rule": one["id"], "where": [node["html"] for node in one["nodes"]]}
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == [], f"{page.url}: {json.dumps(serious, indent=1)}"


@pytest.mark.parametrize(("width", "scheme", "language"), LOOKS)
def test_nothing_serious_is_found_on_any_page(
    door: tuple[LiveCameras, Record],
    server: Any,
    start_console: Callable[..., Any],
    users: Path,
    image: Path,
    axe: str,
    open_page: Open,
    screenshot: Callable[[Page, str], None],
    width: str,
    scheme: str,
    language: str,
) -> None:
    live, record = door
    console = start_console(live, record, lambda: Client(server.address), users=users)
    page = open_page(width, color_scheme=scheme, locale=language)

    def look(name: str) -> None:
        check(page, axe)
        screenshot(page, f"{name}-{width}-{scheme}")

    page.goto(console.address)
    look("login")
    page.locator("[name=name]").fill("otto")
    page.locator("[name=password]").fill("otto has a password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_have_count(3)
    expect(page.get_by_role("article").first).to_have_attribute("data-state", "alert")
    look("cameras")
    page.goto(f"{console.address}/events?q=o")
    look("events")
    for number, name in enumerate(("bare", "lost", "explained")):
        page.goto(f"{console.address}/events")
        page.locator(".event a").nth(number).click()
        expect(page.locator("h1 .state")).to_be_visible()
        look(f"event-{name}")
    page.goto(f"{console.address}/try")
    page.locator("#file").set_input_files(image)
    page.locator("#faces").check()
    expect(page.locator("#decision input[type=radio]")).to_have_count(2)
    page.locator("#try details summary").click()
    page.locator("#samples").fill("100")
    page.locator("#explain").click()
    expect(page.locator("#explained .regions")).to_be_visible()
    look("try")
    for path in ("health", "nothing"):
        page.goto(f"{console.address}/{path}")
        look(path)
    assert page.evaluate("innerWidth") == WIDTHS[width][0]


def test_an_image_is_tried_cancelled_and_explained_again(
    server: Any,
    start_console: Callable[..., Any],
    image: Path,
    open_page: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = Bundle.predict

    def slow(self: Bundle, images: np.ndarray) -> Any:
        slow_by(0.5)
        return predict(self, images)

    console = start_console(client=lambda: Client(server.address))
    page = open_page()
    page.goto(f"{console.address}/try")
    expect(page.get_by_role("button", name="Explain")).to_be_disabled()
    page.get_by_label("Choose an image").set_input_files(image)
    expect(page.get_by_role("heading", level=2)).to_contain_text("Cannot decide")
    page.get_by_label("Look at each face").check()
    expect(page.get_by_role("heading", level=2)).to_contain_text("Alert red")

    page.get_by_text("How it is explained").click()
    expect(page.get_by_label("Segments")).to_have_value("40")
    page.get_by_label("Segments").fill("150")
    page.get_by_label("Samples").fill("4000")
    with monkeypatch.context() as slowed:
        slowed.setattr(Bundle, "predict", slow)  # or it may be done before it is cancelled
        page.get_by_role("button", name="Explain").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.locator("#explained")).to_be_empty()

    page.get_by_role("button", name="As the model has it").click()
    expect(page.get_by_label("Samples")).to_have_value("1000")
    page.get_by_role("radio", name="blue").check()
    page.get_by_label("Explain the label").select_option("green")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("heading", name="Why green")).to_be_visible()
    expect(page.get_by_text("The image was cut into")).to_be_visible()
    page.get_by_label("Overlay").fill("0")
    expect(page.locator(".over")).to_have_css("opacity", "0")

    nothing = image.with_name("notes.txt")
    nothing.write_text("no image")
    page.get_by_label("Choose an image").set_input_files(nothing)
    expect(page.get_by_role("alert")).to_contain_text("That cannot be read as an image")
