"""manifest.jsonl: one line for each attempt, appended and synced; and the lock that keeps two batches out of one folder.

A line that was torn by a power cut or a kill is left out when reading; the next line begins on a line of its own.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ...contract.errors import BusyError, DeniedError, OutputError, SetupError, StorageError, UnreachableError, WorkerStartError
from .plan import BatchOptions, Identity, Item, Stamp

MANIFEST = "manifest.jsonl"
LOCK = ".sam3d-batch.lock"
# The disk, the environment or a server was it, not the item: the next run tries again without being asked.
_CIRCUMSTANCES = {kind.code for kind in (BusyError, DeniedError, OutputError, SetupError, StorageError, UnreachableError, WorkerStartError)}
_NO_LOCKS = {getattr(errno, name, None) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")}  # what a file system without locks says


class Ledger:
    """The manifest of one output folder. `last` holds each name's last line. May be used from several threads."""

    def __init__(self, out: Path) -> None:
        self.path = out / MANIFEST
        self.last: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        for line in self._read().split(b"\n"):
            try:
                entry = json.loads(line)
            except ValueError:  # torn, or empty behind the last newline
                continue
            if isinstance(entry, dict) and _is_name(entry.get("name")):
                self._remember(entry)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as problem:
            raise OutputError(f"{self.path} can't be read: {problem.strerror or problem}.") from None

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line; on disk when this returns. Raises OutputError."""
        data = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            try:
                with open(self.path, "a+b") as file:
                    if file.seek(0, os.SEEK_END) and self._ends_torn(file):
                        data = b"\n" + data
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as problem:
                raise OutputError(f"{self.path} can't be written: {problem.strerror or problem}.") from None
            self._remember(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        self.last.pop(entry["name"], None)  # so that the order is that of the last lines
        self.last[entry["name"]] = entry

    @staticmethod
    def _ends_torn(file: IO[bytes]) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

    def names(self) -> dict[Identity, str]:
        """Which name each combination of files had last."""
        found: dict[Identity, str] = {}
        with self._lock:
            lines = list(self.last.items())  # a watch asks while its workers write
        for name, entry in lines:
            image, masks, number = entry.get("image"), entry.get("masks"), entry.get("number", 1)
            if isinstance(image, str) and isinstance(masks, list):
                found[(image, tuple(masks), number)] = name
        return found

    def same(self, item: Item, stamp: Stamp) -> dict[str, Any] | None:
        """The item's last line, if it was about the same bytes and parameters."""
        entry = self.last.get(item.name)
        return entry if entry is not None and all(entry.get(key) == value for key, value in asdict(stamp).items()) else None


def _is_name(value: Any) -> bool:
    """A name that we could have given: one path component. A manifest can be edited, or come from elsewhere."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set('/\\:<>"\0')


def entry_of(item: Item, status: str, *, stamp: Stamp | None, **more: Any) -> dict[str, Any]:
    """A line. status: done, failed, quarantined (its attempts killed their workers), or refused (the input is wrong, no attempt was made)."""
    image, masks, number = item.identity
    known = asdict(stamp) if stamp is not None else {}
    return {
        "name": item.name,
        "status": status,
        "image": image,
        "masks": list(masks),
        "number": number,
        "rule": item.pair.rule,
        **known,
        **more,
    }


def is_tried_again(entry: dict[str, Any], options: BatchOptions) -> bool:
    """Whether an item with this last line, about the same bytes and parameters, is worked on: not without being asked where it failed by itself."""
    asked = {"failed": options.retry_failed or _by_circumstances(entry), "quarantined": options.retry_quarantined}
    return options.force or asked.get(str(entry["status"]), True)


def _by_circumstances(entry: dict[str, Any]) -> bool:
    error = entry.get("error")
    return isinstance(error, dict) and error.get("code") in _CIRCUMSTANCES


class FolderLock:
    """An operating system lock on a file in the folder: it goes with the process, however that ends. A context manager.

    A file system without locks (some network ones) gives none: there, whoever starts batches sees to it that only one writes.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / LOCK
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        """Raises OutputError where another batch holds it."""
        try:
            self._file = open(self.path, "a+b")  # held open until the end
        except OSError as problem:
            raise OutputError(f"{self.path} can't be written: {problem.strerror or problem}.") from None
        try:
            _take(self._file)
        except OSError as problem:
            if problem.errno in _NO_LOCKS:
                return self
            self._file.close()
            raise OutputError(
                f"Another batch is writing into {self.path.parent}.", "Wait until it has finished, or choose another folder with --out."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()  # releases it; the file stays, because deleting it would race with the next one


def _take(file: IO[bytes]) -> None:
    """Raises OSError where somebody else has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
