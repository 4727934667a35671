"""The image reader under a fuzzer that is guided by coverage, for some seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz.effort import seconds
from fuzz.image_reader import BrokenRuleError, check, write_corpus
from fuzz.images import bad_images, good_images, with_checksums
from limelens.serve.image.fitting import Pixels

ROOT = Path(__file__).parents[2]
HAS_FUZZER = importlib.util.find_spec("atheris") is not None


@pytest.mark.parametrize("name", sorted(good_images()))
def test_every_good_image_is_read(name: str) -> None:
    assert check(good_images()[name])


@pytest.mark.parametrize("name", sorted(bad_images()))
def test_every_bad_image_is_refused(name: str) -> None:
    assert not check(bad_images()[name])


def test_checksums_are_repaired() -> None:
    good = good_images()["plain.png"]
    place = good.index(b"IHDR") + 17
    damaged = good[:place] + bytes(4) + good[place + 4 :]
    assert not check(damaged)
    assert with_checksums(damaged) == good


def test_a_reader_that_breaks_a_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pixels, "array", lambda pixels: np.zeros(pixels.size, np.uint8))
    with pytest.raises(BrokenRuleError, match=r"\(H, W, 3\)"):
        check(good_images()["plain.png"])


@pytest.mark.ci
@pytest.mark.skipif(not HAS_FUZZER, reason="atheris is not installed; it exists for Linux alone")
def test_no_bytes_break_the_image_reader(tmp_path: Path) -> None:
    corpus, findings = tmp_path / "corpus", tmp_path / "findings"
    num_seeds = write_corpus(corpus)
    limit_s = seconds()
    done = subprocess.run(
        [
            # A process begins with the peak memory of the one that started it: a shell between
            # them keeps that of all these tests away from the fuzzer's limit.
            *("sh", "-c", '"$@"; exit $?', "sh"),
            *(sys.executable, "-m", "fuzz.image_reader", "--seconds", str(limit_s)),
            *("--corpus", str(corpus), "--findings", str(findings)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * limit_s + 120,
    )
    left = [str(path) for path in findings.iterdir()] if findings.is_dir() else []
    assert done.returncode == 0, f"{left}: {done.stderr[-3000:]}"
    assert left == []
    # It has tried something, and found ways that the first images do not take.
    assert len(list(corpus.iterdir())) > num_seeds
