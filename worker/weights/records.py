"""What is known about the files of a folder: `sha256.json` beside them. A file that was hashed once and kept size and time isn't hashed again by mistake.

Each entry: bytes, mtime_ns, sha256, and where the digest came from that it was held against:
published   it is the one in layout.py        hub      the hub said so when the file was fetched
first       nothing to hold it against: recorded when the file came, `not verified`        converted   made here
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import layout
from .files import metadata

Record = dict[str, Any]


def load(folder: Path) -> dict[str, Record]:
    """Name -> record; nothing where the file isn't there or can't be understood."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / layout.RECORD_FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(name): item for name, item in found.items() if isinstance(item, dict)}
    return {}


def save(folder: Path, path: Path, sha256: str, source: str) -> None:
    """Add one file's record."""
    known, status = load(folder), path.stat()
    known[path.relative_to(folder).as_posix()] = {
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256,
        "source": source,
    }
    aside = folder / f".{layout.RECORD_FILE}.{os.getpid()}.part"
    aside.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(aside, folder / layout.RECORD_FILE)


def of(folder: Path, path: Path) -> Record | None:
    """The record of this very file: None once its size or time is another."""
    with suppress(OSError, ValueError):
        found, status = load(folder).get(path.relative_to(folder).as_posix()), path.stat()
        if found and (found.get("bytes"), found.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
            return found
    return None


ENDS, SAMPLES, SAMPLE = 1 << 20, 16, 1 << 12  # bytes that a fingerprint reads at both ends; blocks in between, and their bytes


def fingerprint(path: Path) -> str:
    """Of a large file in milliseconds, whatever its name and time: its size, both ends (a .ckpt has its tensors' checksums at the end, a converted file
    its source's digest at the beginning), and some blocks in between."""
    size = path.stat().st_size
    found = hashlib.sha256(f"{size}".encode())
    places = [(0, ENDS), *((size * i // SAMPLES, SAMPLE) for i in range(1, SAMPLES)), (max(0, size - ENDS), ENDS)]
    with path.open("rb", buffering=0) as file:
        for at, count in places:
            file.seek(at)
            found.update(file.read(count))
    return found.hexdigest()


def digest(folder: Path, moge: Path | None) -> str:
    """Of the files that would be loaded, by their fingerprints (hashing ten gigabytes at every start would take half a minute). A converted file counts as the
    one that it was made of: converting changes no result. Raises SetupError for a converted file that is cut short, OSError."""
    found = hashlib.sha256()
    files = [(network.stem, path) for network in layout.NETWORKS if (path := network.there(folder)) is not None]
    for name, path in [*files, *([(layout.MOGE, moge)] if moge else [])]:
        found.update(f"{name} {origin(path)}\n".encode())
    for name in layout.SETTINGS:
        if (path := folder / name).is_file():
            found.update(f"{name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def origin(path: Path) -> str:
    """The fingerprint of the file that `path` was converted from, else its own."""
    source = metadata(path).get("source_fingerprint") if path.suffix == ".safetensors" else None
    return source or fingerprint(path)
