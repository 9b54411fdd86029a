"""Files beside which nothing half-written is seen, what they hash to, and what stands in the headers of files of tensors. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ...contract.errors import OutputError, SetupError

SPARE = 64 << 20  # bytes that stay free on the disk
MAX_HEADER = 64 << 20
CHUNK = 16 << 20  # bytes read at once


class Aside:
    """A file that is written beside its place and takes it, synced, when the block ends well; otherwise nothing is left. Hashes what passes.

    Raises OutputError where the disk is too full for `size` bytes, or writing fails.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.aside = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        check_space(path.parent, size)
        self._hash = hashlib.sha256()
        self._file: BinaryIO

    def __enter__(self) -> Aside:
        try:
            self._file = self.aside.open("wb")
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem
        return self

    def flush(self) -> None:
        self._file.flush()

    def write(self, data: Any) -> None:
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                os.replace(self.aside, self.path)
        except OSError as problem:
            raise _unwritable(self.path, problem) from problem
        finally:
            self.aside.unlink(missing_ok=True)


def header(path: Path) -> dict[str, Any]:
    """A safetensors file's header, `__metadata__` included, and nothing else of it read. Raises SetupError for a file that is cut short or none."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            found = json.loads(file.read(length)) if length <= MAX_HEADER else None
        size = path.stat().st_size - 8 - length
        ends = [entry["data_offsets"][1] for name, entry in found.items() if name != "__metadata__"]
        if max(ends, default=0) != size:
            raise ValueError("its size isn't what its header says")
    except OSError as problem:
        raise SetupError(f"{path} can't be read: {problem.strerror or problem}.") from problem
    except (struct.error, ValueError, AttributeError, TypeError, KeyError, RecursionError) as problem:
        raise SetupError(
            f"{path} isn't a whole safetensors file: {problem}.", "Remove it; python sam3d.py weights convert makes it again."
        ) from problem
    return dict(found)


def metadata(path: Path) -> dict[str, str]:
    return dict(header(path).get("__metadata__") or {})


def check_space(folder: Path, size: int) -> None:
    """Raises OutputError where `folder` (or what will hold it) hasn't room for `size` bytes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise OutputError(
            f"{size / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free.", "Free some space, or name another folder."
        )


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda done: None) -> str:
    """sha256 of a file, in pieces; on_bytes: how many of them so far. Raises SetupError."""
    digest, done = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
                done += len(piece)
                on_bytes(done)
    except OSError as problem:
        raise SetupError(f"{path} can't be read: {problem.strerror or problem}.") from problem
    return digest.hexdigest()


def _unwritable(path: Path, problem: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {problem.strerror or problem}.")
