"""The frames on the wire: whatever goes in comes out, and what isn't a frame is a ProtocolError."""

from __future__ import annotations

import json
import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract.errors import ProtocolError
from comfyui_sam3d.contract.frames import CHUNK, MAX_FRAME, encode_frame, read_frame, write_frame
from hypothesis import given, settings

from wire import arrays, messages, reader, same, sent


@given(messages, st.dictionaries(st.text(min_size=1), arrays, max_size=4), st.sampled_from([1, 7, 1 << 30]))
@settings(max_examples=200, deadline=None)
def test_frames_arrive_intact(message: dict[str, Any], items: dict[str, np.ndarray], most: int) -> None:
    read = reader(sent(message, items) * 2, most)
    for _ in range(2):
        found = read_frame(read)
        assert found is not None
        assert found[0] == message and set(found[1]) == set(items)
        for name, item in items.items():
            same(found[1][name], item)
    assert read_frame(read) is None


@given(st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), arrays, max_size=4))
@settings(deadline=None)
def test_the_safetensors_library_reads_frames(items: dict[str, np.ndarray]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    data = sent({"a": "ü"}, items)
    assert struct.unpack("<Q", data[:8]) == (len(data) - 8,)
    found = safetensors.load(data[8:])
    assert set(found) == set(items)
    for name, item in items.items():
        same(found[name], item)


def test_large_arrays_go_in_pieces() -> None:
    big = np.arange(3 * CHUNK // 4, dtype=np.float32).reshape(3, -1)
    for item in (big, big[:, ::-1], big.T, np.broadcast_to(big[:1], big.shape), big[:, :: big.shape[1] - 1]):
        pieces = list(encode_frame({}, {"a": item}))
        assert max(len(piece) for piece in pieces) <= CHUNK
        found = read_frame(reader(b"".join(pieces)))
        assert found is not None
        same(found[1]["a"], item)


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "c16", "M8[s]", ">f4", "V4", [("a", "f4")], "g"])
def test_what_cannot_be_sent_is_refused_before_a_byte(dtype: Any) -> None:
    written: list[bytes] = []
    with pytest.raises(TypeError, match="can't be sent"):
        write_frame(written.append, {}, {"fine": np.zeros(3), "x": np.zeros(2, dtype)})
    assert not written


@pytest.mark.parametrize("message", [{"a": object()}, {"a": {1, 2}}, {"a": np.zeros(3)}, {"a": b"bytes"}])
def test_what_json_cannot_say_is_refused_before_a_byte(message: dict[str, Any]) -> None:
    written: list[bytes] = []
    with pytest.raises(TypeError):
        write_frame(written.append, message, {})
    assert not written


def test_numpy_scalars_and_any_text_in_a_message() -> None:
    found = read_frame(reader(sent({"a": np.float32(0.5), "b": [np.int64(3), np.bool_(True)], "c": "\udc80 ü \0"}, {})))
    assert found is not None and found[0] == {"a": 0.5, "b": [3, True], "c": "\udc80 ü \0"}


def test_a_stream_cut_anywhere() -> None:
    data = sent({"type": "Beat"}, {"a": np.arange(5.0), "b": np.zeros((0, 3), bool)})
    assert read_frame(reader(b"")) is None
    for length in range(1, len(data)):
        with pytest.raises(ProtocolError):
            read_frame(reader(data[:length]))


def frame(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<QQ", length if length is not None else 8 + len(text) + len(body), len(text)) + text + body


META = {"__metadata__": {"sam3d": "{}"}}


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {**META, "a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE: dict[str, bytes] = {
    "no json": frame(b"hello"),
    "empty": frame(b"{}"),
    "a list": frame([1]),
    "null": frame(None),
    "no message": frame({"__metadata__": {}}),
    "message is no text": frame({"__metadata__": {"sam3d": {}}}),
    "message is no object": frame({"__metadata__": {"sam3d": "[1]"}}),
    "message is no json": frame({"__metadata__": {"sam3d": "{"}}),
    "deep json": frame(b"[" * 200_000),
    "not UTF-8": frame(b'{"__metadata__": {"sam3d": "{}"}, "\xff": 1}'),
    "unknown dtype": frame(entry("F8_E4M3"), bytes(8)),
    "dtype is a list": frame(entry(["F32"]), bytes(8)),
    "shape is a number": frame(entry(shape=2), bytes(8)),
    "shape is a text": frame(entry(shape="2"), bytes(8)),
    "shape of floats": frame(entry(shape=[2.0]), bytes(8)),
    "negative shape": frame(entry(shape=[-2, -1]), bytes(8)),
    "huge shape": frame(entry(shape=[2**70], offsets=[0, 2**72]), bytes(8)),
    "huge shape of nothing": frame(entry(shape=[2**70, 0], offsets=[0, 0])),
    "seventy axes": frame(entry(shape=[1] * 70, offsets=[0, 4]), bytes(4)),
    "NaN in the shape": frame(b'{"__metadata__": {"sam3d": "{}"}, "a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', bytes(8)),
    "offsets of three": frame(entry(offsets=[0, 4, 8]), bytes(8)),
    "offsets missing": frame({**META, "a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "offsets beyond": frame(entry(offsets=[4, 12]), bytes(8)),
    "offsets backwards": frame(entry(offsets=[8, 0]), bytes(8)),
    "offsets negative": frame(entry(offsets=[-8, 0]), bytes(8)),
    "offsets don't fit the shape": frame(entry(shape=[3]), bytes(8)),
    "overlapping": frame({**entry(), "b": entry()["a"]}, bytes(8)),
    "a hole": frame(entry(offsets=[4, 12]), bytes(12)),
    "more than its arrays": frame(entry(), bytes(12)),
    "entry is a number": frame({**META, "a": 5}, bytes(8)),
    "entry is null": frame({**META, "a": None}, bytes(8)),
    "name twice": frame(b'{"__metadata__": {"sam3d": "{}"}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}', bytes(2)),
    "bool that is neither": frame(entry("BOOL", [2], [0, 2]), b"\x01\x02"),
    "length too small": struct.pack("<Q", 3) + b"abc",
    "length absurd": struct.pack("<Q", MAX_FRAME + 1),
    "length beyond memory": struct.pack("<QQ", MAX_FRAME, 100) + bytes(100),
    "header longer than the frame": struct.pack("<QQ", 20, 1000) + bytes(2000),
    "header absurd": struct.pack("<QQ", 2**35, 2**34),
    "printed text": b"Loading model...\n" * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_frame(reader(HOSTILE[name]))
    assert len(caught.value.message) < 500


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    try:
        read_frame(reader(struct.pack("<QQ", 8 + len(data), len(data)) + data))
    except ProtocolError:
        pass


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_header(data: st.DataObject) -> None:
    good = bytearray(sent({"type": "Beat"}, {"a": np.arange(3.0), "b": np.zeros(2, bool)}))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(16, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_frame(reader(bytes(good)))
    except ProtocolError:
        pass
