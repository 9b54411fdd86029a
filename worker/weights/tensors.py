"""Files of tensors written one tensor after another (the safetensors library's writer holds all of them at once), and what stands in their headers.

Format: 8 bytes of length, a JSON header (name -> dtype, shape, data_offsets; `__metadata__`: text -> text), then the bytes, little endian.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...contract.errors import OutputError, SetupError

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
ALIGNMENT = 4096  # of the first tensor: mapped pages can then go to a device as they are
SPARE = 64 << 20  # bytes that stay free on the disk
MAX_HEADER = 64 << 20
CHUNK = 16 << 20  # bytes handed over at once


@dataclass(frozen=True)
class Item:
    """A tensor to be written: its place in the header is known before its values are."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


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


def write(
    path: Path,
    items: Iterable[Item],
    metadata: Mapping[str, str],
    check: Callable[[Path], None] = lambda path: None,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> str:
    """A safetensors file; returns its sha256. check(the finished file, still aside) may refuse it by raising. on_bytes: how many of the tensors' are written."""
    items = sorted(items, key=lambda item: (-item.dtype.itemsize, item.name))  # so that every tensor is aligned to its own size
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for item in items:
        header[item.name] = {"dtype": _NAMES[item.dtype], "shape": list(item.shape), "data_offsets": [at, at + item.size]}
        at += item.size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with Aside(path, at + len(text) + 8) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        done = 0
        for item in items:
            value = item.make().to(device="cpu", dtype=item.dtype).contiguous()
            if tuple(value.shape) != item.shape:
                raise ValueError(f"{item.name} is {tuple(value.shape)}, not {item.shape}")
            data = memoryview(_raw(value))
            for start in range(0, len(data), CHUNK):
                file.write(data[start : start + CHUNK])
            done += item.size
            on_bytes(done)
        file._file.flush()
        check(file.aside)
    return file.sha256


def _raw(value: Tensor) -> Any:
    """The tensor's bytes, little endian, without a copy where that can be."""
    if sys.byteorder == "big":  # pragma: no cover
        value = value.view(torch.uint8).unflatten(-1, (-1, value.dtype.itemsize)).flip(-1)
    return value.reshape(-1).view(torch.uint8).numpy()


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
            f"{path} isn't a whole safetensors file: {problem}.", "Remove it; sam3d weights convert makes it again."
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
