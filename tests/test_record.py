"""Records, their JSON and arrays, messages, errors and names: property tests of the contract's foundations."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract import errors
from comfyui_sam3d.contract.errors import (
    EngineError,
    ImageError,
    InputError,
    MaskError,
    MaskSizeError,
    OptionError,
    ProtocolError,
    Sam3dError,
)
from comfyui_sam3d.contract.frames import read_frame
from comfyui_sam3d.contract.messages import FROM_CLIENT, FROM_WORKER, from_wire, to_wire
from comfyui_sam3d.contract.names import safe_filename, unique_filenames
from comfyui_sam3d.contract.record import Record, array, content_key, limits, pack, unpack
from comfyui_sam3d.contract.request import DraftOptions, ExportOptions, PrepareRequest, ReconstructRequest
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose, Scene, SceneObject
from hypothesis import given, settings

from wire import json_values, reader, same, sent

# -- records


def a_request(**options: Any) -> ReconstructRequest:
    masks = np.zeros((2, 4, 5), bool)
    masks[:, 1, 1] = True
    return ReconstructRequest(image=np.zeros((4, 5, 3), np.uint8), masks=masks, **options)


@dataclasses.dataclass(frozen=True)
class Sample(Record):
    points: np.ndarray = array("float32", "N 3")
    colors: np.ndarray | None = array("uint8", "N 4", optional=True)
    anything: np.ndarray | None = array("int64", "*", optional=True)
    whole: int = limits(3, 0, 10)
    real: float | None = limits(None, -1.0, 1.0)
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    yes: bool = False
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    inner: Pose = dataclasses.field(default_factory=Pose)
    many: tuple[Pose, ...] = ()


POINTS = np.zeros((2, 3), np.float32)
poses = st.builds(Pose, translation=st.tuples(*[st.floats(-10, 10)] * 3), scale=st.floats(0.1, 10))


@given(
    st.integers(0, 4).flatmap(
        lambda n: st.fixed_dictionaries({"points": hnp.arrays(np.float32, (n, 3)), "colors": st.none() | hnp.arrays(np.uint8, (n, 4))})
    ),
    st.fixed_dictionaries(
        {
            "anything": st.none() | hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
            "whole": st.integers(0, 10),
            "real": st.none() | st.floats(-1, 1),
            "pair": st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5)),
            "words": st.lists(st.text(), max_size=3),
            "yes": st.booleans(),
            "info": st.dictionaries(st.text(), json_values.filter(lambda v: not isinstance(v, dict) or set(v) != {"$"}), max_size=3),
            "files": st.dictionaries(st.text(), hnp.arrays(np.uint8, st.integers(0, 5)), max_size=3),
            "inner": poses,
            "many": st.lists(poses, max_size=3).map(tuple),
        }
    ),
)
@settings(deadline=None)
def test_records_survive_the_wire(some: dict[str, Any], more: dict[str, Any]) -> None:
    record = Sample(**some, **more)
    plain, items = pack(record)
    found = read_frame(reader(sent(plain, items)))
    assert found is not None
    again = unpack(Sample, *found)
    assert pack(again)[0] == plain and content_key(again) == content_key(record)
    for name, item in pack(again)[1].items():
        same(item, items[name])


def test_a_record_is_checked_once_and_stays() -> None:
    points = POINTS.copy()
    record = Sample(points, pair=[1, np.float32(2)], whole=4.0, words=["a"])  # type: ignore[arg-type]
    assert record.pair == (1.0, 2.0) and isinstance(record.pair[0], float)
    assert record.whole == 4 and isinstance(record.whole, int) and record.words == ("a",)
    with pytest.raises(ValueError, match="read-only"):
        record.points[0] = 1
    points[0] = 1  # the caller's own stays writable
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.whole = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        record.info["a"] = 1  # type: ignore[index]
    assert record.replace(whole=7).whole == 7
    with pytest.raises(OptionError):
        record.replace(whole=70)


BAD: dict[str, dict[str, Any]] = {
    "missing array": {"points": None},
    "ragged": {"points": [[1, 2, 3], [4]]},
    "texts": {"points": "abc"},
    "another dtype": {"points": np.zeros((2, 3))},
    "another byte order": {"points": np.zeros((2, 3), ">f4")},
    "another rank": {"points": np.zeros(3, np.float32)},
    "another side": {"points": np.zeros((2, 4), np.float32)},
    "sides that disagree": {"colors": np.zeros((5, 4), np.uint8)},
    "beyond the limit": {"whole": 11},
    "half": {"whole": 1.5},
    "infinite whole": {"whole": float("inf")},
    "NaN whole": {"whole": float("nan")},
    "text whole": {"whole": "3"},
    "bool whole": {"whole": True},
    "array whole": {"whole": np.zeros(3)},
    "list whole": {"whole": [1]},
    "NaN real": {"real": float("nan")},
    "infinite real": {"real": float("inf")},
    "endless real": {"real": 10**400},
    "complex real": {"real": 1j},
    "endless pair": {"pair": (10**400, 0)},
    "three in a pair": {"pair": (1, 2, 3)},
    "text as a pair": {"pair": "ab"},
    "set as a pair": {"pair": {1, 2}},
    "text as words": {"words": "abc"},
    "numbers as words": {"words": [1]},
    "text as bool": {"yes": "no"},
    "numpy bool": {"yes": np.bool_(True)},
    "list as mapping": {"info": []},
    "bytes as file": {"files": {"a": b"abc"}},
    "mapping as record": {"inner": {}},
    "list of wrong records": {"many": [1]},
    "a long list": {"whole": list(range(10**5))},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fields(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        Sample(**{"points": POINTS, **BAD[name]})
    assert "Sample." in caught.value.message and caught.value.hint and len(caught.value.message) < 300


@given(st.sampled_from([f.name for f in dataclasses.fields(Sample)]), json_values)
def test_any_json_is_a_record_or_an_input_error(field: str, value: Any) -> None:
    plain, items = pack(Sample(POINTS))
    try:
        unpack(Sample, {**plain, field: value}, items)
    except InputError:
        pass


@pytest.mark.parametrize(
    "plain",
    [
        None, 5, [], "x", {}, {"points": 5}, {"points": {"$": "/other"}}, {"points": {"$": ["/points"]}}, {"points": {"$": None}}, {"colour": 1},
        {"points": {"$": "/points"}, "inner": {"rotation": [1, 0, 0, 0, 9]}}, {"points": {"$": "/points"}, "inner": 3},
        {"points": {"$": "/points"}, "whole": {"$": "/points"}}, {"points": {"$": "/points"}, "pair": {"$": "/points"}},
    ],
)  # fmt: skip
def test_unpacking_nonsense(plain: Any) -> None:
    with pytest.raises(InputError):
        unpack(Sample, plain, {"/points": POINTS})


def test_content_keys() -> None:
    key = a_request().content_key()
    assert len(key) == 64 and key == a_request().content_key()
    image = np.zeros((4, 5, 3), np.uint8)
    image[0, 0, 0] = 1
    fortran = np.asfortranarray(np.zeros((4, 5, 3), np.uint8))
    assert a_request().replace(image=fortran).content_key() == key
    different = [
        {"image": image},
        {"seed": 1},
        {"names": ("a", "b")},
        {"draft": DraftOptions(grid=64)},
        {"alpha": np.zeros((2, 4, 5), np.uint8)},
    ]
    keys = {a_request().replace(**change).content_key() for change in different} | {key}
    assert len(keys) == len(different) + 1
    assert content_key({"a": np.zeros((2, 3), np.uint8)}) != content_key({"a": np.zeros((3, 2), np.uint8)})
    assert content_key({"a": np.zeros(4, np.uint8)}) != content_key({"a": np.zeros(1, np.uint32)})
    assert content_key({"a": np.float32(1.5)}) == content_key({"a": 1.5})


def test_requests_say_what_is_wrong() -> None:
    good = a_request()
    assert good.names == ("object_1", "object_2")
    with pytest.raises(MaskSizeError, match="5x3"):
        good.replace(masks=np.ones((2, 3, 5), bool))
    with pytest.raises(ImageError):
        good.replace(image=np.zeros((4, 5), np.uint8))
    with pytest.raises(ImageError, match="20000"):
        good.replace(image=np.zeros((20000, 1, 3), np.uint8))
    with pytest.raises(InputError, match="Mask 2 of 2 is empty"):
        good.replace(masks=np.stack([good.masks[0], good.masks[0] & False]))
    with pytest.raises(InputError, match="masks, this one has 0"):
        good.replace(masks=np.zeros((0, 4, 5), bool), names=())
    with pytest.raises(MaskError, match="has 257"):
        good.replace(masks=np.ones((257, 4, 5), bool), names=())
    for change in ({"names": ("a", "a")}, {"names": ("a",)}, {"names": ("a", "")}, {"outputs": ("glb", "gif")}, {"quality": "ultra"}):
        with pytest.raises(OptionError):
            good.replace(**change)
    with pytest.raises(OptionError, match="back image"):
        DraftOptions(back="image")
    assert json.loads(json.dumps(good.parameters()))["draft"]["splat_target"] == 20000
    assert "image" not in good.parameters()


def test_scenes_say_what_is_wrong() -> None:
    triangle = np.array([[0, 1, 2]], np.uint32)
    Mesh(np.zeros((3, 3), np.float32), triangle)
    Mesh(np.zeros((0, 3), np.float32), triangle[:0])
    with pytest.raises(InputError, match="beyond"):
        Mesh(np.zeros((2, 3), np.float32), triangle)
    for bad in ({"rotation": (2, 0, 0, 0)}, {"scale": 0}, {"scale": -1}, {"translation": (0, 0)}):
        with pytest.raises(InputError):
            Pose(**bad)
    with pytest.raises(InputError):
        Scene((), "draft", files={"a": np.zeros(3)})
    with pytest.raises(InputError):
        Scene((), "draft", files={"a": np.zeros((3, 3), np.uint8)})


@given(
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.01),
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.floats(0.1, 5),
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-5, 5)),
)
def test_poses(rotation: tuple[float, ...], translation: tuple[float, ...], scale: float, points: np.ndarray) -> None:
    length = sum(x * x for x in rotation) ** 0.5
    pose = Pose(tuple(x / length for x in rotation), translation, scale)  # type: ignore[arg-type]
    matrix = pose.matrix()
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, scale**2 * np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) > 0
    want = (matrix @ np.c_[points, np.ones(4)].T).T[:, :3]
    np.testing.assert_allclose(pose.apply(points), want, atol=1e-9)
    assert pose.apply(points.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(pose.apply(points.astype(np.int64)), pose.apply(np.trunc(points)), atol=1e-9)


# -- messages


def test_every_message_survives_the_wire() -> None:
    scene = Scene(
        (SceneObject("a", mesh=Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))),),
        "draft",
        camera=Camera("perspective", 4, 4, yfov=1.0),
    )
    image = np.zeros((2, 2, 3), np.uint8)
    values: dict[str, dict[str, Any]] = {
        "Reconstruct": {"job": 1, "request": a_request()},
        "Prepare": {"job": 1, "request": PrepareRequest(image, "sam3d")},
        "Export": {"job": 1, "scene": scene, "formats": ("glb",), "options": ExportOptions()},
        "Cancel": {"job": 1},
        "Hello": {"protocol": 1, "version": "1", "pid": 1, "python": "3", "engines": ("draft",)},
        "Beat": {},
        "JobProgress": {"job": 1, "progress": {"stage": "mesh", "step": 1, "total": 2}},
        "JobLog": {"job": 1, "log": {"text": "ü\udc80"}},
        "JobPreview": {"job": 1, "preview": {"image": image}},
        "JobDone": {"job": 1, "scene": scene},
        "JobExported": {"job": 1, "files": {"a": image.ravel()}},
        "JobFailed": {"job": 1, "error": ImageError("x").to_json()},
        "JobStopped": {"job": 1},
    }
    known = {**FROM_CLIENT, **FROM_WORKER}
    assert set(values) == set(known)
    for name, fields in values.items():
        kind = known[name]
        plain, items = pack(fields)
        message = from_wire({"type": name, **plain}, items, known)
        assert type(message) is kind
        found = read_frame(reader(sent(*to_wire(message))))
        assert found is not None
        again = from_wire(*found, known)
        assert content_key(again) == content_key(message)


@given(
    st.sampled_from([*FROM_CLIENT, *FROM_WORKER, "Other"]),
    st.dictionaries(st.sampled_from(["job", "request", "scene", "files", "error", "x"]), json_values),
)
def test_any_json_is_a_message_or_a_protocol_error(name: str, fields: dict[str, Any]) -> None:
    try:
        from_wire({"type": name, **fields}, {}, {**FROM_CLIENT, **FROM_WORKER})
    except ProtocolError:
        pass


# -- errors


def every_error() -> list[type[Sam3dError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Sam3dError)]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_errors_survive_the_wire(kind: type[Sam3dError]) -> None:
    error = kind("It broke.", detail="line 1\nline 2")
    again = Sam3dError.from_json(json.loads(json.dumps(error.to_json())))
    assert type(again) is kind and vars(again) == vars(error) and str(again) == str(error)
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - concurrent.futures hands exceptions on like this
    assert type(copied) is kind and vars(copied) == vars(error)


def test_error_codes_are_different_and_in_the_tree_of_the_docstring() -> None:
    kinds = every_error()
    assert len({kind.code for kind in kinds}) == len(kinds)
    text = errors.__doc__ or ""
    for kind in kinds:
        assert kind.__name__ in text
        if kind not in (Sam3dError, InputError):
            line = next(line for line in text.splitlines() if f"- {kind.__name__} " in line)
            assert f" {kind.code} " in line


def test_an_unknown_code_keeps_its_text() -> None:
    found = Sam3dError.from_json({"code": "E_FUTURE", "message": "m", "hint": "h"})
    assert type(found) is EngineError and (found.message, found.hint, found.detail) == ("m", "h", "")
    assert type(Sam3dError.from_json({})) is EngineError
    assert str(ImageError("A.", "B.")) == "A. B." and str(ImageError("A.")) == "A."


# -- names


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_any_text_becomes_a_file_name(text: str) -> None:
    name = safe_filename(text)
    assert name and len(name) <= 82 and name == safe_filename(name)
    assert not set(name) & set('<>:"/\\|?*\0') and name not in (".", "..") and not name.startswith(".")
    assert not name.endswith((" ", ".")) and name == name.strip()
    name.encode("utf-8")
    assert len(name.encode("utf-8")) < 255
    assert name.split(".")[0].rstrip().lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("steak", "steak"), ("ステーキ", "ステーキ"), ("a/b\\c", "a_b_c"), ("..", "object"), ("../x", "_x"), (".hidden", "hidden"), ("", "object"), (" ", "object"),
        ("CON", "_CON"), ("con.png", "_con.png"), ("nul .x", "_nul .x"), ("COM¹", "_COM¹"), ("a. ", "a"), ("e\u0301", "é"), ("a\u202eb", "a_b"), ("\ud800", "_"),
    ],
)  # fmt: skip
def test_names(text: str, name: str) -> None:
    assert safe_filename(text) == name


@given(st.lists(st.text(alphabet="aAß-2ss.ſ/", max_size=5), max_size=12))
def test_unique_names(texts: list[str]) -> None:
    names = unique_filenames(texts)
    assert len(names) == len(texts) == len({name.casefold() for name in names})


def test_unique_names_count_on() -> None:
    assert unique_filenames(["a", "A", "a-2", "a"]) == ["a", "A-2", "a-2-2", "a-3"]
