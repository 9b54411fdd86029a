"""docs/schema is current, accepts what we pack and rejects what we don't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.contract import Camera, DraftOptions, Mesh, Pose, ReconstructRequest, Scene, SceneObject, Splats, schema
from comfyui_sam3d.contract.errors import InputError
from comfyui_sam3d.contract.record import pack, unpack
from comfyui_sam3d.contract.request import FORMATS

jsonschema = pytest.importorskip("jsonschema")


def request(**options: Any) -> ReconstructRequest:
    masks = np.zeros((2, 4, 5), bool)
    masks[:, 1, 1] = True
    return ReconstructRequest(image=np.zeros((4, 5, 3), np.uint8), masks=masks, **options)


def scene() -> Scene:
    mesh = Mesh(vertices=np.eye(3, dtype=np.float32), faces=np.array([[0, 1, 2]], np.uint32), uvs=np.zeros((3, 2), np.float32))
    splats = Splats(*(np.ones(s, np.float32) for s in ((2, 3), (2, 3), (2, 4), (2,), (2, 1, 3))))
    camera = Camera("orthographic", 5, 4, pose=Pose(translation=(0, 0, 2)), xmag=0.5, ymag=0.4)
    objects = (SceneObject("a", mesh=mesh, splats=splats, score=0.5, info={"gates": [1, True, None]}), SceneObject("b"))
    files = {"model.glb": np.zeros(3, np.uint8), "objects/a.glb": np.zeros(0, np.uint8)}
    return Scene(objects, "draft", seed=2**64 - 1, camera=camera, timings={"mesh": 0.1}, warnings=("w",), files=files)


GOOD = [
    request(),
    request(alpha=np.zeros((2, 4, 5), np.uint8), names=("x", "y"), seed=2**64 - 1, outputs=(), texture_size=512, size=2),
    request(draft=DraftOptions(preset="ball", grid=64, back="image", back_image=np.zeros((2, 2, 4), np.uint8))),
    scene(),
    Scene((), "draft"),
]


@pytest.mark.parametrize("name", schema.FILES)
def test_the_files_are_current(name: str) -> None:
    path = schema.FOLDER / name
    assert path.read_text("utf-8") == schema.text(schema.FILES[name]), "run: python -m comfyui_sam3d.contract.schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text("utf-8")))


def test_each_file_appears_whole(tmp_path: Path) -> None:
    paths = schema.write(tmp_path / "new")
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    assert [path.read_text("utf-8") for path in paths] == [schema.text(kind) for kind in schema.FILES.values()]


@pytest.mark.parametrize("index", range(len(GOOD)))
def test_packed_records_are_valid(index: int) -> None:
    record = GOOD[index]
    plain = json.loads(json.dumps(pack(record)[0]))
    jsonschema.validate(plain, schema.schema(type(record)), cls=jsonschema.Draft202012Validator)
    again = unpack(type(record), plain, pack(record)[1])
    assert pack(again)[0] == pack(record)[0]


BAD_REQUEST: dict[str, Any] = {
    "no image": {"image": None},
    "image as numbers": {"image": [[[1, 2, 3]]]},
    "array with more": {"image": {"$": "/image", "x": 1}},
    "array name": {"image": {"$": 5}},
    "engine": {"engine": "magic"},
    "seed": {"seed": -1},
    "seed too large": {"seed": 2**64},
    "seed of text": {"seed": "1"},
    "half a face": {"face_budget": 1000.5},
    "texture": {"texture_size": 10},
    "names": {"names": "abc"},
    "name": {"names": [1, 2]},
    "size": {"size": 0},
    "unknown": {"colour": "red"},
    "draft": {"draft": None},
    "draft grid": {"draft": {"grid": 1}},
    "draft unknown": {"draft": {"gird": 64}},
    "draft profile": {"draft": {"profile": "cube"}},
    "frame": {"export": {"ply_frame": "x_up"}},
}


@pytest.mark.parametrize("name", BAD_REQUEST)
def test_bad_requests_are_rejected_by_schema_and_record(name: str) -> None:
    record = request()
    plain, arrays = pack(record)
    plain |= BAD_REQUEST[name]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema.schema(ReconstructRequest), cls=jsonschema.Draft202012Validator)
    with pytest.raises(InputError):
        unpack(ReconstructRequest, plain, arrays)


@pytest.mark.parametrize(
    "change",
    [
        {"objects": None},
        {"engine": 5},
        {"objects": [{}]},
        {"objects": [{"name": "a", "pose": {"rotation": [1, 0, 0]}}]},
        {"objects": [{"name": "a", "pose": {"rotation": [1, 0, 0, 0, 0]}}]},
        {"camera": {"kind": "fisheye", "width": 1, "height": 1}},
        {"timings": {"a": "long"}},
        {"files": {"a": "bytes"}},
    ],
)
def test_bad_scenes_are_rejected_by_schema_and_record(change: dict[str, Any]) -> None:
    plain, arrays = pack(Scene((), "draft"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain | change, schema.schema(Scene), cls=jsonschema.Draft202012Validator)
    with pytest.raises(InputError):
        unpack(Scene, plain | change, arrays)


def test_missing_fields() -> None:
    for kind in (ReconstructRequest, Scene):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({}, schema.schema(kind), cls=jsonschema.Draft202012Validator)


def test_defaults_are_those_of_the_record() -> None:
    found = schema.schema(ReconstructRequest)
    assert found["required"] == ["image", "masks"]
    assert found["properties"]["outputs"]["default"] == ["glb", "ply", "preview"]
    assert set(found["properties"]["outputs"]["default"]) <= set(FORMATS)
    assert found["properties"]["masks"]["dtype"] == "bool" and found["properties"]["masks"]["shape"] == ["N", "H", "W"]
    assert found["properties"]["image"]["shape"] == ["H", "W", 3]
