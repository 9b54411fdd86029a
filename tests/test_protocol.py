"""The frame and the messages, against docs/protocol.md, against the safetensors library, and against everything that isn't a frame."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from comfyui_sam3d.contract import PROTOCOL, Progress, Scene, frames, messages
from comfyui_sam3d.contract.errors import ProtocolError
from comfyui_sam3d.contract.frames import encode_frame, read_frame, write_frame
from comfyui_sam3d.tests.zoo.keeper import ask
from comfyui_sam3d.tests.zoo.worker import odd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DOCUMENT = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")


def written(message: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    out = bytearray()
    write_frame(lambda piece: out.extend(piece), message, arrays)
    return bytes(out)


def reader(data: bytes, at_once: int = 1 << 30) -> Callable[[memoryview], int]:
    """A stream that gives at most `at_once` bytes at a time."""
    rest = memoryview(data)

    def read_into(view: memoryview) -> int:
        nonlocal rest
        count = min(len(view), len(rest), at_once)
        view[:count], rest = rest[:count], rest[count:]
        return count

    return read_into


DTYPES = st.sampled_from([np.dtype(name) for name in frames._NAMES])


@st.composite
def any_array(draw: st.DrawFn) -> np.ndarray:
    """Of every dtype and rank, 0-size and 0-d too, sliced and transposed."""
    item: np.ndarray = draw(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    if item.ndim:
        item = item[tuple(draw(st.sampled_from([slice(None), slice(None, None, -1), slice(None, None, 2)])) for _ in item.shape)]
    return item.T if draw(st.booleans()) else item


TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
JSON = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT, max_size=4)


@settings(deadline=None, max_examples=150)
@given(message=JSON, arrays=st.dictionaries(TEXT.map(lambda name: "/" + name), any_array(), max_size=4), at_once=st.integers(1, 64))
def test_what_is_written_is_read(message: dict[str, Any], arrays: dict[str, np.ndarray], at_once: int) -> None:
    data = written(message, arrays) + b"next"
    read_into = reader(data, at_once)
    found = read_frame(read_into)
    assert found is not None
    assert found[0] == message and set(found[1]) == set(arrays)
    for name, item in arrays.items():
        got = found[1][name]
        assert got.dtype == item.dtype and got.shape == item.shape
        assert got.tobytes() == item.tobytes()
        assert got.flags.aligned or not got.size
    with pytest.raises(ProtocolError, match="inside a frame"):
        read_frame(read_into)  # four bytes are no length


@settings(deadline=None, max_examples=50)
@given(arrays=st.dictionaries(st.text("abc/", min_size=1, max_size=4), any_array(), max_size=4))
def test_the_safetensors_library_reads_it(arrays: dict[str, np.ndarray]) -> None:
    data = written({"type": "x"}, arrays)
    assert struct.unpack("<Q", data[:8]) == (len(data) - 8,)
    found = safetensors.numpy.load(data[8:])
    assert set(found) == set(arrays)
    for name, item in arrays.items():
        assert found[name].dtype == item.dtype and found[name].shape == item.shape and found[name].tobytes() == item.tobytes()


def test_large_and_crooked_arrays_go_in_pieces() -> None:
    for name, item in odd().items():
        pieces = list(encode_frame({}, {name: item}))
        assert max(map(len, pieces)) <= frames.CHUNK, name
        assert len(pieces) <= 2 + item.nbytes // (frames.CHUNK // 2), name
        assert b"".join(pieces[1:]) == np.asarray(item).tobytes(), name


@pytest.mark.parametrize(
    "thing", [np.array([None]), np.array(["a"]), np.array([1], ">i4"), np.array([1], "M8[s]"), np.zeros(1, [("a", "i4")]), np.array([1j])]
)
def test_what_safetensors_does_not_know(thing: np.ndarray) -> None:
    with pytest.raises(TypeError, match="can't be sent"):
        encode_frame({}, {"a": thing})


def test_the_end_between_two_frames_is_no_error() -> None:
    assert read_frame(reader(b"")) is None


@settings(deadline=None, max_examples=300)
@given(cut=st.integers(1, 10_000), flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3))
def test_a_damaged_frame_is_a_protocol_error(cut: int, flips: list[tuple[int, int]]) -> None:
    """Or, where the damage makes no difference to the form, a frame. Never anything else."""
    data = bytearray(written(*messages.to_wire(messages.Reconstruct(1, ask("tame")))))
    for at, value in flips:
        data[at % len(data)] = value
    data[6:8] = b"\0\0"  # keep the length below what a test machine has of memory
    data[3:6] = b"\0\0\0"
    del data[cut:]
    try:
        found = read_frame(reader(bytes(data)))
        if found is not None:
            messages.from_wire(*found, messages.FROM_CLIENT)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "text, 'GET / HT'"),
        (struct.pack("<QQ", 9, 1) + b"{", "claims 9 bytes"),
        (struct.pack("<QQ", frames.MAX_FRAME + 1, 2), "claims"),
        (struct.pack("<QQ", 100, 93), "header claims 93 of 100"),
        (struct.pack("<QQ", 1 << 30, frames.MAX_HEADER + 1), "header claims"),
        (struct.pack("<QQ", 10, 2) + b"{}", "can't be read"),
        (struct.pack("<QQ", 10, 2) + b"\xff\xff", "can't be read"),
        (struct.pack("<QQ", 8 + 20_000, 20_000) + b"[" * 20_000, "can't be read"),
    ],
)
def test_what_is_no_frame(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(words)):
        read_frame(reader(data))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [0]},
        {"dtype": "U8", "shape": 4, "data_offsets": [0, 4]},
        7,
    ],
)
def test_an_array_that_does_not_fit(entry: object) -> None:
    text = json.dumps({"__metadata__": {"sam3d": "{}"}, "a": entry}).encode()
    with pytest.raises(ProtocolError, match="'a'"):
        read_frame(reader(struct.pack("<QQ", 8 + len(text) + 4, len(text)) + text + b"abcd"))


@pytest.mark.parametrize(
    ("header", "body", "words"),
    [
        ({"__metadata__": {"sam3d": "7"}}, b"", "must be a JSON object"),
        ({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\x02", "neither 0 nor 1"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"ab", "leave a hole"),
        ({n: {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} for n in "ab"}, b"ab", "overlap"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"ab", "accounts for 1"),
    ],
)
def test_arrays_that_do_not_fill_their_frame(header: dict[str, Any], body: bytes, words: str) -> None:
    text = json.dumps({"__metadata__": {"sam3d": "{}"}, **header}).encode()
    with pytest.raises(ProtocolError, match=words):
        read_frame(reader(struct.pack("<QQ", 8 + len(text) + len(body), len(text)) + text + body))


def test_a_name_that_the_format_needs_itself() -> None:
    with pytest.raises(TypeError, match="no name"):
        encode_frame({}, {"__metadata__": np.zeros(1)})


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"type": None},
        {"type": "Reconstruct"},  # of the other direction
        {"type": "Beat", "pulse": 60},
        {"type": "JobStopped"},
        {"type": "JobStopped", "job": "1"},
        {"type": "JobStopped", "job": float("inf")},
        {"type": "JobProgress", "job": 1, "progress": {"stage": 5, "step": 1, "total": 1}},
        {"type": "JobProgress", "job": 1, "progress": {"stage": "a", "step": float("nan"), "total": 1}},
        {"type": "JobPreview", "job": 1, "preview": {"image": {"$": "/image"}}},
        {"type": "JobPreview", "job": 1, "preview": {"image": {"$": {}}}},
        {"type": "JobDone", "job": 1, "scene": None},
        {"type": "JobDone", "job": 1, "scene": {"objects": 3, "engine": "x"}},
    ],
)
def test_what_is_no_message(plain: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        messages.from_wire(plain, {}, messages.FROM_WORKER)


def test_values_without_end_are_refused_before_anything_is_written() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="nested"):
        messages.to_wire(messages.JobDone(1, Scene(objects=(), engine="x", parameters={"a": endless})))
    for thing in ({"a": endless}, {"a": {1, 2}}):
        with pytest.raises(TypeError):
            encode_frame(thing, {})


# -- the document


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_documents_hex_is_a_frame() -> None:
    """The worked example, byte for byte, in both directions."""
    (dump,) = blocks("hex")
    rows = [line.split("|")[0].split() for line in dump.splitlines()]
    assert [int(row[0], 16) for row in rows] == list(range(0, 16 * len(rows), 16))
    data = bytes(int(byte, 16) for row in rows for byte in row[1:])
    image = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    message = messages.JobPreview(7, messages.Preview(image))
    assert data == written(*messages.to_wire(message))
    found = read_frame(reader(data))
    assert found is not None
    got = messages.from_wire(*found, messages.FROM_WORKER)
    assert got.job == 7
    np.testing.assert_array_equal(got.preview.image, image)
    assert safetensors.numpy.load(data[8:])["/preview/image"].tobytes() == image.tobytes()


def test_the_document_names_every_message_and_field() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ to \w+ \|([^|]*)\|", DOCUMENT, re.MULTILINE))
    known = {**messages.FROM_CLIENT, **messages.FROM_WORKER}
    assert set(rows) == set(known)
    for name, fields in rows.items():
        assert re.findall(r"`(\w+)`", fields) == [field.name for field in dataclasses.fields(known[name])], name


def test_the_document_has_the_numbers() -> None:
    assert f"version {PROTOCOL}" in DOCUMENT.splitlines()[0]
    assert f"{frames.MAX_HEADER >> 20} MiB" in DOCUMENT and f"{frames.MAX_FRAME >> 30} GiB" in DOCUMENT
    assert all(f"`{name}`" in DOCUMENT for name in frames._NAMES.values())


def test_a_message_survives_the_wire() -> None:
    request = ask("tame", 2**64 - 1, more=2)
    plain, arrays = messages.to_wire(messages.Reconstruct(3, request))
    found = read_frame(reader(written(plain, arrays)))
    assert found is not None
    got = messages.from_wire(*found, messages.FROM_CLIENT)
    assert got.job == 3 and got.request.content_key() == request.content_key()
    progress = messages.JobProgress(1, Progress("a", 1, 2, 0.5, None))
    found = read_frame(reader(written(*messages.to_wire(progress))))
    assert found is not None and messages.from_wire(*found, messages.FROM_WORKER) == progress
