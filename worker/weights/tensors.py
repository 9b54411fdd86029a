"""Files of tensors, written one tensor after another: the safetensors library's writer holds all of them at once.

Format: 8 bytes of length, a JSON header (name -> dtype, shape, data_offsets; `__metadata__`: text -> text), then the bytes, little endian.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import CHUNK, Aside

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
ALIGNMENT = 4096  # of the first tensor: mapped pages can then go to a device as they are


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
        file.flush()
        check(file.aside)
    return file.sha256


def _raw(value: Tensor) -> Any:
    """The tensor's bytes, little endian, without a copy where that can be."""
    if sys.byteorder == "big":  # pragma: no cover
        value = value.view(torch.uint8).unflatten(-1, (-1, value.dtype.itemsize)).flip(-1)
    return value.reshape(-1).view(torch.uint8).numpy()
