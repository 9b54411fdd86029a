"""The wire: framed messages, each a safetensors file (docs/protocol.md is normative).

    frame   = length (8 bytes, little endian, of what follows) + safetensors
    message = `__metadata__` of that file: {"sam3d": JSON text}; its tensors are the arrays

Frames are streamed - header, then each array's bytes - and never built as one blob: a gigabyte needs no second gigabyte.
The safetensors library reads what we write; we don't use its writer, which copies, and which silently corrupts arrays that aren't
contiguous.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import ProtocolError

_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_DTYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}

MAX_HEADER = 64 << 20
MAX_FRAME = 64 << 30
CHUNK = 4 << 20  # bytes handed over at once: a large array is written, and a non-contiguous one copied, piece by piece

Write = Callable[[memoryview], object]  # writes all of it, or raises
ReadInto = Callable[[memoryview], int]  # fills a part of it, returns how much; 0 at the end of the stream


def write_frame(write: Write, message: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """One message with its arrays. Raises TypeError for a dtype that safetensors doesn't know (before a byte is written)."""
    # Larger items first, so that every array starts at a multiple of its item size; no holes, as the format demands.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"sam3d": json.dumps(message, ensure_ascii=False)}}
    offset = 0
    for name in order:
        item = arrays[name]
        if item.dtype.name not in _NAMES or not item.dtype.isnative:
            raise TypeError(f"{name}: dtype {item.dtype} can't be sent")
        header[name] = {"dtype": _NAMES[item.dtype.name], "shape": list(item.shape), "data_offsets": [offset, offset + item.nbytes]}
        offset += item.nbytes
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    write(memoryview(struct.pack("<QQ", 8 + len(text) + offset, len(text)) + text))
    for name in order:
        for piece in _pieces(arrays[name]):
            write(piece)


def _pieces(item: np.ndarray) -> Any:
    """An array's bytes in C order, at most CHUNK at a time; copies a piece only where the array isn't contiguous."""
    if item.size == 0:
        return
    if item.flags.c_contiguous:
        flat = memoryview(item.reshape(-1).view(np.uint8))
        for start in range(0, len(flat), CHUNK):
            yield flat[start : start + CHUNK]
    elif item.nbytes <= CHUNK or item.ndim < 2:
        yield from _pieces(np.ascontiguousarray(item))
    else:
        for part in item:
            yield from _pieces(part)


def read_frame(read_into: ReadInto) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The next message and its arrays (views into one buffer), or None where the stream ends between frames.

    Raises ProtocolError for a stream that ends inside a frame or holds anything else than a frame.
    """
    first = _read(read_into, 8, at_start=True)
    if first is None:
        return None
    (length,) = struct.unpack("<Q", first)
    if not 10 <= length <= MAX_FRAME:
        raise ProtocolError(f"A frame claims {length} bytes.")
    (text_length,) = struct.unpack("<Q", _need(read_into, 8))
    if not 2 <= text_length <= min(MAX_HEADER, length - 8):
        raise ProtocolError(f"A frame's header claims {text_length} of {length} bytes.")
    try:
        header = json.loads(bytes(_need(read_into, text_length)))
        message = json.loads(header.pop("__metadata__")["sam3d"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ProtocolError(f"A frame's header can't be read: {problem!r}.") from None
    if not isinstance(message, dict):
        raise ProtocolError("A message must be a JSON object.")
    body = _need(read_into, length - 8 - text_length)
    return message, {name: _array(name, entry, body) for name, entry in header.items()}


def _array(name: str, entry: Any, body: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
            raise ValueError("not a whole number")
        if end - start != math.prod(shape) * dtype.itemsize or end > len(body):
            raise ValueError("offsets and shape don't agree")
        return body[start:end].view(dtype).reshape(shape)
    except (ValueError, KeyError, TypeError) as problem:
        raise ProtocolError(f"The array {name!r} of a frame can't be read: {problem}.") from None


def _need(read_into: ReadInto, count: int) -> np.ndarray:
    found = _read(read_into, count, at_start=False)
    assert found is not None
    return found


def _read(read_into: ReadInto, count: int, *, at_start: bool) -> np.ndarray | None:
    buffer = np.empty(count, np.uint8)
    view, filled = memoryview(buffer), 0
    while filled < count:
        got = read_into(view[filled:])
        if got == 0:
            if at_start and filled == 0:
                return None
            raise ProtocolError(f"The stream ended inside a frame ({filled} of {count} bytes).")
        filled += got
    return buffer
