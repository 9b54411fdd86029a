"""Results of stages on disk, by what made them: what was sampled once isn't sampled again.

A key is the sha256 of everything that decides a result (picture, mask, parameters of that stage and of those before it, weights, code). An entry is one
file, a frame of the wire's format (contract/frames.py), written aside and renamed: two processes, or a kill in mid write, leave whole files or none. When
the limit is passed, the entries that were used longest ago go first. Those used last are also kept in memory, within a limit of its own.

SAM3D_CACHE         the folder; default: `sam3d` in the user's cache folder
SAM3D_CACHE_BYTES   the limit, default 4 GB; 0: nothing is kept on disk
SAM3D_CACHE_MEMORY  the limit in memory, default 256 MB; 0: nothing is kept there
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..contract.errors import OptionError, ProtocolError
from ..contract.frames import read_frame, write_frame
from ..contract.record import content_key

SUFFIX = ".stage"
LIMIT = 4_000_000_000
MEMORY = 256_000_000
LEAST = 200  # bytes that an entry counts for beside its arrays
STALE = 3600.0  # seconds after which a file that was being written belongs to nobody


def key_of(stage: str, **parts: Any) -> str:
    """Of a stage's name and JSON values, records, keys of earlier stages, arrays."""
    return content_key({"stage": stage, **parts})


Entry = tuple[dict[str, Any], dict[str, np.ndarray]]


class _Memory:
    """The entries used last, up to `limit` bytes of arrays. From any thread."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> Entry | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        size = _size(arrays)
        entry = (dict(value), {name: _frozen(item) for name, item in arrays.items()}) if 2 * size <= self.limit else None
        with self._lock:
            self._drop(key)
            if entry is not None:  # one entry must not drive everything else out
                self._entries[key] = entry
                self.size += size
                while self.size > self.limit:
                    self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.size -= _size(entry[1])


def _size(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of an entry; one without arrays takes some too."""
    return LEAST + sum(item.nbytes for item in arrays.values())


def _frozen(item: np.ndarray) -> np.ndarray:
    """A copy that can't be written to: the caller's array may change after it."""
    kept: np.ndarray = np.array(item)
    kept.setflags(write=False)
    return kept


class Cache:
    """A folder of entries. Whatever goes wrong with the disk is a miss, never an error: the work can always be done again."""

    def __init__(self, folder: Path, limit: int = LIMIT, memory: int = 0) -> None:
        self.folder, self.limit = folder, limit
        self._memory = _Memory(memory)

    def get(self, key: str) -> Entry | None:
        """The entry's JSON value and its arrays, not to be changed; or None."""
        path = self._path(key)
        if (known := self._memory.get(key)) is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
            return known
        try:
            with open(path, "rb") as file:
                found = read_frame(file.readinto)  # type: ignore[arg-type]  # of a file that doesn't block it never gives None
            os.utime(path)  # used now
        except OSError:
            return None
        except ProtocolError:  # cut short by a full disk, or something else's file
            found = None
        if found is None or found[0].get("key") != key:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self._memory.put(key, found[0]["value"], found[1])
        return found[0]["value"], found[1]

    def holds(self, key: str) -> bool:
        """Whether `get` would find it, unless another process is faster."""
        return key in self._memory or self._path(key).is_file()

    def put(self, key: str, value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep an entry, and make room for it. value: JSON values."""
        self._memory.put(key, value, arrays)
        if _size(arrays) > self.limit // 2:  # one entry must not drive everything else out
            return
        aside = self.folder / f".{key[:16]}-{secrets.token_hex(8)}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(aside, "xb") as file:
                write_frame(file.write, {"key": key, "value": dict(value)}, arrays)
            os.replace(aside, self._path(key))
            self._evict()
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _evict(self) -> None:
        """Delete what was used longest ago until the rest fits, and what a killed process left."""
        entries = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):  # another process was faster
                seen = entry.stat()
                if entry.name.endswith(SUFFIX):
                    entries.append((seen.st_mtime, seen.st_size, entry.path))
                elif entry.name.endswith(".tmp") and time.time() - seen.st_mtime > STALE:
                    os.unlink(entry.path)
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


def open_cache() -> Cache:
    """The cache that the environment names. Raises OptionError for a limit that is no number."""
    named = os.environ.get("SAM3D_CACHE", "").strip()
    folder = Path(named) if named else _user_cache() / "sam3d" / "stages"
    return Cache(folder, _number("SAM3D_CACHE_BYTES", LIMIT), _number("SAM3D_CACHE_MEMORY", MEMORY))


def _number(variable: str, usual: int) -> int:
    text = os.environ.get(variable, "").strip() or str(usual)
    if not (text.isascii() and text.isdigit()):
        raise OptionError(f"{variable} is {text!r}, which is no number of bytes.", "Give a whole number; 0 keeps nothing.")
    return int(text)


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
