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
from collections.abc import Callable, Iterator, Mapping
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
Body = Callable[[ReadInto, int], np.ndarray]  # reads so many bytes, uint8; whoever expects more than fits into memory gives its own


def encode_frame(message: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[memoryview]:
    """One message with its arrays, as the pieces to write in this order; the arrays are read as the pieces are taken.

    What can't be sent (a dtype that safetensors doesn't know, a value that JSON doesn't) is a TypeError here, before the first piece.
    """
    # Larger items first, so that every array starts at a multiple of its item size; no holes, as the format demands.
    ordered = sorted(((name, np.asarray(item)) for name, item in arrays.items()), key=lambda pair: -pair[1].dtype.itemsize)
    try:
        header: dict[str, Any] = {"__metadata__": {"sam3d": json.dumps(message, default=_plain)}}
    except (ValueError, RecursionError) as problem:
        raise TypeError(str(problem)) from None
    offset = 0
    for name, item in ordered:
        if item.dtype.name not in _NAMES or not item.dtype.isnative:
            raise TypeError(f"{name}: dtype {item.dtype} can't be sent")
        if name in header:
            raise TypeError(f"{name} is no name for an array")
        header[name] = {"dtype": _NAMES[item.dtype.name], "shape": list(item.shape), "data_offsets": [offset, offset + item.nbytes]}
        offset += item.nbytes
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return _pieces(struct.pack("<QQ", 8 + len(text) + offset, len(text)) + text, [item for _, item in ordered])


def write_frame(write: Write, message: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """`encode_frame` and write it."""
    for piece in encode_frame(message, arrays):
        write(piece)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):  # numpy's scalars among JSON values
        return value.item()
    raise TypeError(f"{type(value).__name__} can't be sent")


def _pieces(head: bytes, items: list[np.ndarray]) -> Iterator[memoryview]:
    yield memoryview(head)
    for item in items:
        yield from _bytes(item)


def _bytes(item: np.ndarray) -> Iterator[memoryview]:
    """An array's bytes in C order, at most CHUNK at a time; copies a piece only where the array isn't contiguous."""
    if item.size == 0:
        return
    if item.flags.c_contiguous:
        flat = item.reshape(-1).view(np.uint8).data
        for start in range(0, len(flat), CHUNK):
            yield flat[start : start + CHUNK]
    elif (row := item.nbytes // len(item)) > CHUNK:
        for part in item:
            yield from _bytes(part)
    else:
        for start in range(0, len(item), CHUNK // row):
            yield from _bytes(np.ascontiguousarray(item[start : start + CHUNK // row]))


def read_frame(read_into: ReadInto, take: Body | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The next message and its arrays (views into one buffer), or None where the stream ends between frames. take: reads that buffer (read_body).

    Raises ProtocolError for a stream that ends inside a frame or holds anything else than a frame.
    """
    first = _read(read_into, 8, at_start=True)
    if first is None:
        return None
    (length,) = struct.unpack("<Q", first.data)
    if not 10 <= length <= MAX_FRAME:
        raise ProtocolError(f"A frame claims {length} bytes{_in_words(first)}.")
    (text_length,) = struct.unpack("<Q", read_body(read_into, 8).data)
    if not 2 <= text_length <= min(MAX_HEADER, length - 8):
        raise ProtocolError(f"A frame's header claims {text_length} of {length} bytes.")
    try:
        header = json.loads(read_body(read_into, text_length).tobytes())
        message = json.loads(header.pop("__metadata__")["sam3d"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ProtocolError(f"A frame's header can't be read: {problem!r}.") from None
    if not isinstance(message, dict):
        raise ProtocolError("A message must be a JSON object.")
    body = (take or read_body)(read_into, length - 8 - text_length)
    arrays = {name: _array(name, entry, body) for name, entry in header.items()}
    filled = 0
    for start, end in sorted(entry["data_offsets"] for entry in header.values()):
        if start != filled:
            raise ProtocolError("The arrays of a frame overlap, or leave a hole.")
        filled = end
    if filled != len(body):
        raise ProtocolError(f"A frame has {len(body)} bytes of arrays, its header accounts for {filled}.")
    return message, arrays


def _in_words(first: np.ndarray) -> str:
    """The usual cause: something printed into the stream (a login banner, a wrapper script)."""
    text = first.tobytes().decode("latin-1")
    return f"; its first bytes are text, {text!r}: something else prints into the stream" if text.strip().isprintable() else ""


def _array(name: str, entry: Any, body: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
            raise ValueError("not a whole number")
        if end - start != math.prod(shape) * dtype.itemsize or end > len(body):
            raise ValueError("offsets and shape don't agree")
        if dtype.kind == "b" and body[start:end].max(initial=0) > 1:
            raise ValueError("a bool is neither 0 nor 1")
        return body[start:end].view(dtype).reshape(shape)
    except (ValueError, KeyError, TypeError, OverflowError) as problem:
        raise ProtocolError(f"The array {name!r} of a frame can't be read: {problem}.") from None


def read_body(read_into: ReadInto, count: int) -> np.ndarray:
    """So many bytes, uint8, in memory. Raises ProtocolError where the stream ends before."""
    found = _read(read_into, count, at_start=False)
    assert found is not None
    return found


def _read(read_into: ReadInto, count: int, *, at_start: bool) -> np.ndarray | None:
    buffer = np.empty(count, np.uint8)
    view, filled = buffer.data, 0
    while filled < count:
        got = read_into(view[filled:])
        if got == 0:
            if at_start and filled == 0:
                return None
            raise ProtocolError(f"The stream ended inside a frame ({filled} of {count} bytes).")
        filled += got
    return buffer
