"""A font that has the characters of a text: Pillow's own, else one found on the system.

Knows the standard font folders of Linux, macOS and Windows. Does not know the layout.
"""

import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Plain sans-serif families with many characters, tried before all others.
_PREFERRED = (
    "notosanscjk", "notosans-regular", "sourcehansans", "wqy", "droidsansfallback", "pingfang",
    "hiragino", "applesdgothic", "msyh", "yugoth", "meiryo", "malgun", "simhei", "nanumgothic",
    "arialuni", "dejavusans",
)  # fmt: skip
_NO_SUCH_CHARACTER = "\U0010ffff"


class MissingFontWarning(UserWarning):
    """No font on this system has the characters of a text; a substitute was drawn."""


def font_for(text: str, size: int) -> tuple[Font, str]:
    """A font for a text, and the text as it can be drawn.

    Args:
        text: One line, any script.
        size: Pixels per em.

    Returns:
        The font, and the text; if no font has all its characters, those missing lose their accents
        or, if that does not help, become the name of their script in brackets, with a
        `MissingFontWarning` that names packages to install.
    """
    best: Font = ImageFont.load_default(size)
    lacking = _lacking(best, text)
    if lacking == "":
        return best, text
    for path in font_files(folders()):
        font = _open(path, size)
        if font is None:
            continue
        still = _lacking(font, text)
        if still == "":
            return font, text
        if len(still) < len(lacking):
            best, lacking = font, still
    text = "".join(_plain(one) if one in lacking else one for one in text)
    lacking = _lacking(best, text)
    if lacking == "":
        return best, text
    warnings.warn(
        f"No font on this system has the characters {lacking!r} of {text!r}; install one, e.g. "
        "fonts-noto-cjk (Debian, Ubuntu) or google-noto-sans-cjk-fonts (Fedora)",
        MissingFontWarning,
        stacklevel=2,
    )
    return best, _without(text, lacking)


def folders() -> tuple[Path, ...]:
    """Where fonts are kept on this system."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in a container
        home = Path("/nonexistent")
    if sys.platform == "darwin":
        return (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    if sys.platform == "win32":
        return (
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            home / "AppData/Local/Microsoft/Windows/Fonts",
        )
    return (
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local/share/fonts",
        home / ".fonts",
    )


@lru_cache(maxsize=8)
def font_files(where: tuple[Path, ...]) -> tuple[Path, ...]:
    """Font files below some folders, the most widely useful first."""
    found = [
        path
        for folder in where
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".ttc", ".otf")
    ]
    return tuple(sorted(found, key=_preference))


def _preference(path: Path) -> tuple[int, bool, str]:
    name = path.name.lower().replace(" ", "")
    rank = next((i for i, known in enumerate(_PREFERRED) if known in name), len(_PREFERRED))
    odd = ("bold", "italic", "oblique", "black", "light", "thin", "condensed", "mono", "serif")
    return rank, any(word in name.replace("sansserif", "") for word in odd), str(path)


def _open(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None


def _lacking(font: Font, text: str) -> str:
    return "".join(character for character in _visible(text) if not _has(font, character))


def _plain(character: str) -> str:
    """The character without its accents."""
    parts = unicodedata.normalize("NFKD", character)
    bare = "".join(part for part in parts if not unicodedata.combining(part))
    return bare if bare.isascii() else character


def _visible(text: str) -> Iterator[str]:
    return (one for one in dict.fromkeys(text) if not one.isspace() and one.isprintable())


def _has(font: Font, character: str) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: Latin-1 bitmaps
        return ord(character) < 256
    drawn, missing = font.getmask(character), font.getmask(_NO_SUCH_CHARACTER)
    return bool(drawn.size != missing.size or bytes(drawn) != bytes(missing))


def _without(text: str, lacking: str) -> str:
    words: list[str] = []
    for character in text:
        if character not in lacking:
            words.append(character)
            continue
        script = f"[{unicodedata.name(character, 'unknown').split()[0]}]"
        if not words or words[-1] != script:
            words.append(script)
    return "".join(words)
