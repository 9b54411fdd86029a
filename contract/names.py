"""Names of objects and items become file names; this is the one place that decides how."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_FORBIDDEN = set('<>:"/\\|?*')
_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789\u00b9\u00b2\u00b3"),
}
_LONGEST = 80  # characters; three bytes each in UTF-8 stay under the 255 of common file systems


def safe_filename(text: str, default: str = "object") -> str:
    """`text` as one path component that Linux, macOS and Windows accept: letters of any script stay, NFC, no separators,
    no control characters, no leading dot, no reserved device name, at most 80 characters. Empty text gives `default`."""
    kept = "".join(
        "_" if c in _FORBIDDEN or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else c
        for c in unicodedata.normalize("NFC", text)
    )
    name = kept.strip().lstrip(".")[:_LONGEST].rstrip(". ")
    if not name:
        return default
    return f"_{name}" if name.split(".")[0].rstrip().lower() in _RESERVED else name


def unique_filenames(texts: Iterable[str]) -> list[str]:
    """`safe_filename` of each, with -2, -3, ... where two would collide (also where only the case differs)."""
    taken: set[str] = set()
    out = []
    for text in texts:
        base = name = safe_filename(text)
        number = 2
        while name.casefold() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.casefold())
        out.append(name)
    return out
