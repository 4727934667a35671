"""`.ci/audit`: whether a version is known to be vulnerable, and that nobody passes without asking.

The advisories are those of a server here, in the form of OSV; pip-audit is the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit"

# pip-audit takes seconds to start.
pytestmark = pytest.mark.ci

Audit = Callable[[set[str]], "subprocess.CompletedProcess[str]"]


class Advisories(ThreadingHTTPServer):
    """Knows an advisory for every version of some packages."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.vulnerable: set[str] = set()

    @property
    def url(self) -> str:
        """As of OSV's API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class Answer(BaseHTTPRequestHandler):
    """Answers a query about one version of a package."""

    server: Advisories

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        affected = {
            "package": {"name": asked, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
        advisory = {"id": f"TEST-{asked}", "summary": "bad", "affected": [affected]}
        known = {"vulns": [advisory]} if asked in self.server.vulnerable else {}
        body = json.dumps(known).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    """Audits numpy and typer, if some packages are known to be vulnerable."""
    (tmp_path / "constraints.txt").write_text("# tested\nnumpy==2.0.0\ntyper==0.20.0\n")
    server = Advisories()
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(vulnerable: set[str]) -> subprocess.CompletedProcess[str]:
        server.vulnerable = vulnerable
        return ask(tmp_path, server.url)

    yield run
    server.shutdown()
    server.server_close()


def ask(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, sys.executable, "--vulnerability-service", "osv", "--osv-url", url],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_an_audit_passes_if_only_what_is_known_as_bad_is_bad(audit: Audit) -> None:
    result = audit({"pillow"})
    assert result.returncode == 0, result.stderr
    assert "No known vulnerabilities found" in result.stderr


def test_an_audit_names_a_vulnerable_version(audit: Audit) -> None:
    result = audit({"pillow", "numpy"})
    assert result.returncode == 1
    assert "TEST-numpy" in result.stdout
    assert "pillow" not in result.stdout


def test_an_audit_fails_if_nobody_knows_advisories(audit: Audit) -> None:
    result = audit(set())
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "Nothing was checked" in line
    assert "(No known vulnerabilities found)" in line


def test_an_audit_fails_if_nobody_answers(tmp_path: Path) -> None:
    result = ask(tmp_path, "http://127.0.0.1:9/v1/query")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "Connection refused" in line
