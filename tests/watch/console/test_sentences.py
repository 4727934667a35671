"""Every word of the page is in the files of sentences, in every language."""

from __future__ import annotations

import calendar
import re
import string
from pathlib import Path

import jinja2
import pytest

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import FaceIssue
from limelens.watch.console.access.users import Role
from limelens.watch.console.app import STATIC
from limelens.watch.console.language import Sentences
from limelens.watch.console.rendering import TEMPLATES, THEMES
from limelens.watch.record.words import Place, Whole

SENTENCES = Sentences()
OTHERS = sorted(set(SENTENCES.languages) - {"en"})
FILES = sorted(TEMPLATES.rglob("*.html"))


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_every_sentence_with_the_same_values(language: str) -> None:
    assert OTHERS == ["de"]
    assert SENTENCES.keys(language) == SENTENCES.keys("en")
    for key in SENTENCES.keys("en"):
        english, other = SENTENCES.raw("en", key), SENTENCES.raw(language, key)
        assert other.strip(), key
        assert names(other) == names(english), key


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_template_has_words_of_its_own(file: Path) -> None:
    text = file.read_text()
    jinja2.Environment().parse(text)
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", text, flags=re.DOTALL)
    spoken = re.findall(r'(?:aria-label|alt|title|placeholder)="([^"]*)"', text)
    shown = re.sub(r"<[^>]*>", " ", text).replace("limelens", "")
    assert not re.findall(r"[^\W\d_]{2,}", " ".join([shown, *spoken]))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_template_has_scripts_or_styles_in_it(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"https?://", text)


def test_every_sentence_that_is_asked_for_is_there_and_every_one_is_asked_for() -> None:
    keys = SENTENCES.keys("en")
    sources = [*FILES, *STATIC.glob("*.js"), *STATIC.parent.rglob("*.py")]
    text = "\n".join(file.read_text() for file in sources)
    for key in re.findall(r"""say\((?:request, )?["']([a-z_.]+[a-z_])["']\s*[,)]""", text):
        assert key in keys or f"script.{key}" in keys, key
    by_value = {*CameraState, *UnknownReason, *FaceIssue, *Role, *THEMES, *Place, *Whole}
    by_value |= {f"{place}_{whole}" for place in Place for whole in Whole}
    by_value |= {day.lower() for day in calendar.day_name}
    # Those of [details] are found by what they say; see test_details.py.
    for key in {one for one in keys if not one.startswith("details.")} - {"language.name"}:
        word = key.removesuffix(".one").rpartition(".")[2]
        is_asked_for = re.search(rf"""["'.]{re.escape(word)}["'`]""", text)
        assert is_asked_for or word.removeprefix("state_").removeprefix("is_") in by_value, key


def test_the_reader_gets_their_language() -> None:
    for chosen, accepted, expected in (
        (None, "", "en"),
        (None, "de-AT,de;q=0.9,en;q=0.5", "de"),
        (None, "fr;q=0.9, de;q=0.3, en;q=0.2", "de"),
        (None, "fr", "en"),
        (None, "de;q=x,,;;", "en"),
        ("de", "en", "de"),
        ("../en", "de", "de"),
    ):
        assert SENTENCES.choose(chosen, accepted) == expected
