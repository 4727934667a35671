"""Why something is lost, in the reader's language where limelens itself says it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.watch.console.conftest import Browser
from tests.watch.record.made import alert, lost

import limelens.watch
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.tools.camera.faults import LossReason, words_of
from limelens.watch.console.details import Details, english
from limelens.watch.console.language import Sentences
from limelens.watch.event import EventExplanation
from limelens.watch.live import LiveCamera, LiveCameras
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

SENTENCES = Sentences()
DETAILS = Details(SENTENCES)
GERMAN = {"accept-language": "de"}
VALUE = "\0"


def said_in_code() -> list[str]:
    """Every text in the code, with a zero for each value in it."""
    folder = Path(limelens.watch.__file__).parents[1]
    trees = [ast.parse(file.read_text()) for file in folder.rglob("*.py")]
    return [text for tree in trees for text in texts(tree)]


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values
            )


def test_every_detail_is_said_somewhere_in_these_words() -> None:
    code = said_in_code()
    patterns = [re.compile(re.escape(one).replace(re.escape(VALUE), r"\w+")) for one in code]
    for sentence in SENTENCES.below("en", "details").values():
        for part in re.split("[;:] ", re.sub(r"\{\w+\}", VALUE, sentence)):
            is_said = any(part in one for one in code)
            assert is_said or any(one.fullmatch(part) for one in patterns), sentence


def test_whatever_is_wrong_with_a_camera_has_german_words() -> None:
    for reason in {*LossReason} - {LossReason.FAILED, LossReason.FROZEN}:
        for has_user in (False, True):
            english_words = words_of(
                reason, OSError(), is_remote=True, has_user=has_user, limit_s=10
            )
            found = DETAILS.in_words("de", english_words)
            assert found.language == "", english_words
            assert found.text != english_words
            assert DETAILS.in_words("en", english_words).text == english_words


@pytest.mark.parametrize(
    ("text", "german"),
    [
        ("outside its schedule until Monday 06:00", "außerhalb des Zeitplans bis Montag, 06:00"),
        ("outside its schedule", "außerhalb des Zeitplans"),
        (
            "watching stood still for 8 s; it is opened again",
            "die Beobachtung stand 8 s still; die Kamera wird neu geöffnet",
        ),
        (
            "watching ended without notice between 2026-03-01 08:00:00 and 2026-03-01 08:02:03 UTC",
            "die Beobachtung endete unbemerkt zwischen 2026-03-01 08:00:00 und 2026-03-01 08:02:03"
            " UTC",
        ),
        ("/a: b.onnx: its server ended with -9", "/a: b.onnx: Der Server endete mit -9"),
        ("", ""),
    ],
)
def test_values_are_kept(text: str, german: str) -> None:
    assert DETAILS.in_words("de", text).text == german
    assert DETAILS.in_words("de", text).language == ""


def test_what_others_say_stays_english_and_is_marked_as_such() -> None:
    found = DETAILS.in_words("de", "Input/output error <1>")
    assert found == english("Input/output error <1>")
    assert found.__html__() == '<span lang="en">Input/output error &lt;1&gt;</span>'
    told = SENTENCES.say("de", "health.camera_problem", camera="<b>", why=found)
    assert told == f"Kamera &lt;b&gt; ist unbekannt: {found.__html__()}"
    assert DETAILS.in_words("en", "Input/output error <1>").__html__() == (
        "Input/output error &lt;1&gt;"
    )


def test_a_german_reader_gets_german_reasons_on_every_page(
    start_console: Callable[..., Any], browse: Callable[..., Browser], tmp_path: Path
) -> None:
    refused = lost(detail="it refuses the user or the password (401)")
    odd = lost(detail="Input/output error")
    unexplained = alert()
    writer = RecordWriter(RecordSettings(path=tmp_path / "record"))
    for event in (refused, odd, unexplained):
        writer.put(event)
    reason = "the server was lost before the explanation"
    writer.explain(EventExplanation(unexplained.id, None, reason))
    writer.close(60)
    live = LiveCameras()
    for name, event in (("door", refused), ("yard", odd)):
        live.put(
            LiveCamera(
                name, "", CameraState.UNKNOWN, datetime.now(UTC), UnknownReason.CAMERA_LOST,
                event.detail, last_error=event.detail,
            )
        )  # fmt: skip
    german, foreign = "sie weist Benutzer oder Passwort ab (401)", '<span lang="en">Input/output '
    with Record(tmp_path / "record") as record:
        browser = browse(start_console(live, record=record, problems=lambda: ["mqtt: no"]).address)
        browser.headers.update(GERMAN)
        assert (
            f"Die Kamera ist nicht lesbar: {german}<" in browser.get(f"/events/{refused.id}").text
        )
        assert f"Die Kamera ist nicht lesbar: {foreign}" in browser.get(f"/events/{odd.id}").text
        shown = browser.get(f"/events/{unexplained.id}").text
        assert "Das wurde nicht erklärt. Der Server ging vor der Erklärung verloren.<" in shown
        health = browser.get("/health").text
        assert f"<li>Kamera door ist unbekannt: {german}</li>" in health
        assert f"<li>Kamera yard ist unbekannt: {foreign}" in health
        assert '<li><span lang="en">mqtt: no</span></li>' in health
