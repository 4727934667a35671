"""Sound and notifications of the page with the cameras, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.waiting import until

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.console.serving import Console
from limelens.watch.live import LiveCamera, LiveCameras

pytestmark = pytest.mark.ci

# A browser without a screen shows no notification and has no loudspeaker: what the page asks of
# them is noted. Two low tones say that the console is silent, which it may be for a moment where
# the machine is busy.
_NOTE = """
  window.noted = { tones: 0, shown: [] };
  window.Notification = class {
    static permission = "granted";
    static requestPermission = async () => "granted";
    constructor(title, options) { noted.shown.push(`${title}, ${options.body}`); }
    close() {}
  };
  const make = AudioContext.prototype.createOscillator;
  AudioContext.prototype.createOscillator = function () {
    const oscillator = make.call(this);
    const start = oscillator.start;
    oscillator.start = function (at) {
      noted.tones += this.frequency.value > 400;
      start.call(this, at);
    };
    return oscillator;
  };
"""


def test_an_alert_sounds_and_notifies_each_time_once_somebody_asked_for_it(
    start_console: Callable[..., Console], open_page: Callable[..., Page]
) -> None:
    def noted() -> Any:
        return page.evaluate("noted")

    clear = LiveCamera("door", "", CameraState.CLEAR, datetime.now(UTC), last_event_id="1")
    alert = replace(clear, state=CameraState.ALERT, label="without_mask", last_event_id="2")
    live = LiveCameras()
    live.put(alert)
    page = open_page(permissions=["notifications"])
    page.add_init_script(_NOTE)
    page.goto(start_console(live).address)
    tile, why = page.locator(".tile"), page.locator(".why")
    expect(tile).to_have_attribute("data-state", "alert")
    assert noted() == {"tones": 0, "shown": []}  # nobody asked yet
    page.get_by_role("button", name="Sound").click()
    page.get_by_role("button", name="Notifications").click()
    expect(page.get_by_role("button", name="Notifications", pressed=True)).to_be_visible()
    until(lambda: noted()["tones"] == 1)  # so that they know how loud it is

    live.put(clear)
    expect(tile).to_have_attribute("data-state", "clear")
    live.put(replace(alert, last_event_id="3"))
    until(lambda: len(noted()["shown"]) == 1)
    assert noted() == {"tones": 6, "shown": ["Alert: door, without_mask"]}
    expect(page.locator("#alarm")).to_have_text("Alert: door")
    live.put(replace(alert, last_event_id="3", fps=4.0))  # no news
    live.put(replace(alert, last_event_id="4"))  # somebody else
    until(lambda: len(noted()["shown"]) == 2)
    assert noted()["tones"] == 11
    expect(why).to_have_attribute("href", "/events/4")
