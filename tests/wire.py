"""What the tests of frames and records share: arrays in every layout, JSON values, and a stream in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from comfyui_sam3d.contract.frames import write_frame

DTYPES = [np.dtype(d) for d in ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")]


def twist(item: np.ndarray, how: str) -> np.ndarray:
    """The same values in another layout of memory."""
    if how == "Fortran":
        return np.asfortranarray(item)
    if how == "reversed":
        return np.ascontiguousarray(item[..., ::-1])[..., ::-1] if item.ndim else item
    if how == "strided":
        return np.repeat(item, 2, axis=-1)[..., ::2] if item.ndim else item
    if how == "transposed":
        return np.ascontiguousarray(item.T).T
    if how == "misaligned":
        raw = np.zeros(item.nbytes + 1, np.uint8)
        out = raw[1:].view(item.dtype).reshape(item.shape)
        out[...] = item
        return out
    if how == "read-only":
        item = item.copy()
        item.setflags(write=False)
    if how == "broadcast":
        return np.broadcast_to(item, (2, *item.shape))
    return item


LAYOUTS = ["plain", "Fortran", "reversed", "strided", "transposed", "misaligned", "read-only", "broadcast"]
arrays = st.builds(
    twist,
    st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))),
    st.sampled_from(LAYOUTS),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
messages = st.dictionaries(st.text(), json_values, max_size=4)


def sent(message: Mapping[str, Any], items: Mapping[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    write_frame(out.write, message, items)
    return out.getvalue()


def reader(data: bytes, most: int = 1 << 30) -> Callable[[memoryview], int]:
    """A stream that gives at most so many bytes at once."""
    stream = io.BytesIO(data)
    return lambda view: stream.readinto(view[:most])


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()  # NaN too
