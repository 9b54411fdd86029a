"""Large answers of workers: on the disk while they come, and mapped into memory piece by piece while they are written where they belong.

A result of the most detailed settings has gigabytes. What is mapped the system takes back when it needs the room, and `released` gives it back at once.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...contract.errors import ProtocolError
from ...contract.frames import ReadInto, read_body

LARGE = (
    64 << 20
)  # bytes of an answer, over the number of workers, from which on it lies on the disk: a result of one usual object needs not
CHUNK = 4 << 20  # bytes at once


class Aside:
    """A contract.frames.Body of one of `workers`. The files have no name, and go with the last array that looks at them."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self._folder, self._large = folder, LARGE // workers

    def __call__(self, read_into: ReadInto, count: int) -> np.ndarray:
        if count < self._large:
            return read_body(read_into, count)
        try:
            file: Any = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  it outlives the `try`
        except OSError:
            return read_body(read_into, count)
        with file:
            piece, filled = np.empty(CHUNK, np.uint8), 0
            while filled < count:
                got = read_into(piece.data[: min(CHUNK, count - filled)])
                if got == 0:
                    raise ProtocolError(f"The stream ended inside a frame ({filled} of {count} bytes).")
                if not _wrote(file, piece.data[:got]):  # the disk is full; what comes must be read all the same
                    return self._rest(read_into, file, count, filled, piece[:got])
                filled += got
            return np.frombuffer(mmap.mmap(file.fileno(), count, access=mmap.ACCESS_READ), np.uint8)

    @staticmethod
    def _rest(read_into: ReadInto, file: Any, count: int, filled: int, last: np.ndarray) -> np.ndarray:
        """All of it in memory after all. file: holds the first `filled` bytes; last: those that came then."""
        body = np.empty(count, np.uint8)
        file.seek(0)
        file.readinto(body.data[:filled])
        body[filled : filled + len(last)] = last
        filled += len(last)
        body[filled:] = read_body(read_into, count - filled)
        return body


def _wrote(file: Any, data: memoryview) -> bool:
    try:
        return bool(file.write(data) == len(data))
    except OSError:
        return False


def pieces(data: Any) -> Iterator[memoryview]:
    """A buffer's bytes, CHUNK at a time."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


def released(parts: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same; what was mapped leaves the memory behind each."""
    for part in parts:
        yield part
        mapped = _mapping(part.obj)
        if mapped is not None and hasattr(mapped, "madvise"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def _mapping(owner: Any) -> mmap.mmap | None:
    while not isinstance(owner, mmap.mmap):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj if isinstance(owner, memoryview) else None
        if owner is None:
            return None
    return owner
