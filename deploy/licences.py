"""Prints docs/licences.md: the licences of everything that the image holds.

    python deploy/licences.py IMAGE > docs/licences.md

IMAGE is a folder with the image's files, as `buildah mount` gives; `make image-test` compares the
page with those. Without IMAGE it prints the table of Python packages alone, of this environment.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("serve-cpu", "explain")
_TEXT = re.compile(r"(?i)(licen[cs]e|copying|notice|third.?party|authors)[^/]*$")
_LIBRARIES = "opt/limelens/lib"
_STATUS = "var/lib/dpkg/status.d"

Row = tuple[str, str, str]


def required(name: str, extras: Iterable[str]) -> set[str]:
    """The canonical names of a package of this environment and of all that it requires."""
    found: dict[str, set[str]] = {}
    waiting = [(name, {"", *extras})]
    while waiting:
        name, wanted = waiting.pop()
        key = canonicalize_name(name)
        wanted -= found.get(key, set())
        if not wanted:
            continue
        found.setdefault(key, set()).update(wanted)
        for line in Distribution.from_name(name).requires or []:
            need = Requirement(line)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in wanted):
                waiting.append((need.name, {"", *need.extras}))
    return set(found)


def python_rows(packages: Iterable[Distribution]) -> list[Row]:
    """Name, licence, and where its text is, of each package."""
    return sorted((canonicalize_name(one.name), _licence(one), _texts(one)) for one in packages)


def debian_rows(image: Path) -> Iterator[Row]:
    """The same of Debian's packages in the image."""
    for status in sorted((image / _STATUS).iterdir()):
        text = Path("usr/share/doc", status.name, "copyright")
        said = (image / text).read_text(errors="replace")
        readable = said.startswith("Format:")  # by machines
        names = set(re.findall(r"(?m)^License:[ \t]*(\S.*?)[ \t]*$", said)) if readable else ()
        yield status.name, ", ".join(sorted(names)) or "see its text", f"`/{text}`"


def table(head: Row, rows: Iterable[Row]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * 3, *rows))


def page(image: Path) -> str:
    """The whole page."""
    (packages,) = (image / _LIBRARIES).glob("*/site-packages")
    found = distributions(path=[str(packages)])
    return f"""# Licences of the image

What the container image holds, with `EXTRAS=serve-cpu,explain`, and where in it the text of each
licence is. `python deploy/licences.py IMAGE` prints this page; `make image-test` builds the image
and compares.

- **limelens and the models that come with it** are under Apache-2.0.
- **Libraries inside of packages** (OpenBLAS, libjpeg-turbo, OpenSSL and others) are named in the
  package's own texts or in its `sboms` folder.
- **Python** comes from the base image. The hub's is built from source, under the PSF licence, with
  its text in `/usr/local/lib/python3.11/LICENSE.txt`; the table below has Debian's Python, because
  `make image-test` builds on that.
- **Who passes the image on** also passes on Debian's packages, some under the GPL or LGPL. Their
  sources are at [snapshot.debian.org](https://snapshot.debian.org), by the versions in
  `/{_STATUS}`.
- **`serve-gpu`** adds NVIDIA's `nvidia-*` packages, which are under NVIDIA's own licences: read
  those before you pass such an image on.
- **`console`** adds PyAV, whose wheel contains FFmpeg, which calls itself LGPL version 3 or later,
  and x264 and x265, which are under the GPL: read those before you pass such an image on.

## Python packages

{table(("package", "licence", "text, in `site-packages`"), python_rows(found))}

## Debian packages

{table(("package", "licences named in its text", "text"), debian_rows(image))}
"""


def _licence(package: Distribution) -> str:
    said = package.metadata
    for expression in said.get_all("License-Expression") or []:
        return str(expression)
    named = [one for one in said.get_all("Classifier") or [] if one.startswith("License :: ")]
    if named:
        return ", ".join(sorted(one.rpartition(" :: ")[2] for one in named))
    return str((said.get_all("License") or ["its own"])[0]).splitlines()[0]


def _texts(package: Distribution) -> str:
    files = [one for one in package.files or [] if _TEXT.search(one.name) and one.suffix != ".py"]
    if not files:
        return "none in the package; `/usr/share/common-licenses/Apache-2.0`"
    folders = {re.sub(r"-[^/-]*\.dist-info", "-*.dist-info", str(one.parent)) for one in files}
    described = sorted(one for one in folders if "dist-info" in one)
    return f"`{(described or sorted(folders))[0]}`"


def main() -> None:
    """Prints the page, or the Python part."""
    if len(sys.argv) > 1:
        print(page(Path(sys.argv[1])), end="")
    else:
        needed = map(Distribution.from_name, required("limelens", EXTRAS))
        print(table(("package", "licence", "text"), python_rows(needed)))


if __name__ == "__main__":
    main()
