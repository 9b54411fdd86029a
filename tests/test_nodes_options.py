"""SAM3D Options and core's MOGE_GEOMETRY: what reaches the worker, what is refused before it; and the nodes around the learned engine itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract.errors import OptionError, OutputError
from comfyui_sam3d.contract.pointmaps import fov_intrinsics, from_depth
from comfyui_sam3d.contract.request import ReconstructRequest, Sam3dOptions
from comfyui_sam3d.contract.scene import Scene
from comfyui_sam3d.nodes import NODE_CLASS_MAPPINGS, export, reconstruct
from comfyui_sam3d.nodes._backend import SharedBackend
from comfyui_sam3d.nodes._pictures import WHITE
from comfyui_sam3d.nodes.options import Options

from factory_cli import cli

HIGH, WIDE = 48, 64
IMAGE = np.random.default_rng(7).random((1, HIGH, WIDE, 3), np.float32)
MASKS = np.zeros((2, HIGH, WIDE), np.float32)
MASKS[0, 6:30, 4:28] = MASKS[1, 14:40, 34:60] = 1
# What the canvas doesn't offer: for comparisons with the original's numbers, by the command line; point maps come by their own socket.
ELSEWHERE = {"few_step_grid", "noise", "pointmap", "pointmap_frame", "intrinsics"}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[ReconstructRequest]:
    """The requests that would go to the worker."""
    found: list[ReconstructRequest] = []

    def keep(request: ReconstructRequest, progress: Any) -> Scene:
        found.append(request)
        return Scene(objects=(), engine="sam3d")

    monkeypatch.setattr(reconstruct, "shared", SimpleNamespace(reconstruct=keep))
    return found


def make(image: Any = IMAGE, masks: Any = MASKS, **more: Any) -> Any:
    kind = NODE_CLASS_MAPPINGS["SAM3DReconstruct"]
    usual = {"polarity": WHITE, "engine": "sam3d", "preset": "auto", "quality": "standard", "seed": 3}
    return kind().reconstruct(image=image, masks=masks, **{**usual, **more})


def geometry(count: int = 1, size: tuple[int, int] = (HIGH, WIDE), **changes: Any) -> dict[str, Any]:
    """As core's Run MoGe Inference gives it: OpenCV axes, infinite where masked. Picture i of a batch lies i + 1 metres away."""
    depth = np.stack([np.full(size, i + 1.0, np.float32) for i in range(count)])
    matrix = fov_intrinsics(60, size)
    points = np.stack([from_depth(part, matrix).points for part in depth]) * np.array([-1, -1, 1], np.float32)
    mask = np.ones(depth.shape, bool)
    mask[:, 0] = False
    points[~mask] = np.inf
    made = {"points": points, "depth": depth, "intrinsics": np.stack([matrix] * count), "mask": mask, "image": IMAGE}
    return {**made, **changes}


# -- options


def test_first_values_change_nothing(sent: list[ReconstructRequest]) -> None:
    defaults = {name: spec[1]["default"] for name, spec in Options.INPUT_TYPES()["optional"].items()}
    plain = Options().options()
    assert Options().options(**defaults) == plain
    make()
    make(options=plain[0])
    assert sent[0].content_key() == sent[1].content_key()
    assert sent[0].sam3d == Sam3dOptions() and sent[0].texture_size is None and sent[0].face_budget is None


def test_every_option_of_the_engine_is_offered() -> None:
    offered = set(Options.INPUT_TYPES()["optional"])
    assert {item.name for item in dataclasses.fields(Sam3dOptions)} - ELSEWHERE == offered - {
        "texture_size",
        "face_budget",
        "size",
        "outputs",
    }


@pytest.mark.parametrize(
    ("widget", "value", "expected"),
    [
        ("steps", 50, 50),
        ("guidance", 0.0, 0.0),
        ("guidance", 5.5, 5.5),
        ("few_step", "on", True),
        ("few_step", "off", False),
        ("latent_steps", 12, 12),
        ("latent_guidance", 0.0, 0.0),
        ("latent_seed", 0, 0),
        ("latent_seed", 2**64 - 1, 2**64 - 1),
        ("splats_per_voxel", "4", 4),
        ("mesh", "raw", "raw"),
        ("smooth", 2, 2),
        ("texture", "views", "views"),
        ("frame", "object", "object"),
        ("layout", True, True),
        ("memory", "staged", "staged"),
    ],
)
def test_each_widget_is_one_option(sent: list[ReconstructRequest], widget: str, value: Any, expected: Any) -> None:
    make(options=Options().options(**{widget: value})[0])
    assert sent[0].sam3d == dataclasses.replace(Sam3dOptions(), **{widget: expected})


def test_options_of_both_engines(sent: list[ReconstructRequest]) -> None:
    make(options=Options().options(texture_size="2048", face_budget=5000, size=0.3)[0])
    assert (sent[0].texture_size, sent[0].face_budget, sent[0].size) == (2048, 5000, 0.3)
    assert sent[0].sam3d == Sam3dOptions()


@pytest.mark.parametrize(("word", "outputs"), [("meshes and splats", ()), ("meshes", ("stl",)), ("splats", ("splat",))])
def test_what_is_made(sent: list[ReconstructRequest], word: str, outputs: tuple[str, ...]) -> None:
    make(options=Options().options(outputs=word)[0])
    assert sent[0].outputs == outputs


def test_every_word_of_a_list_is_allowed(sent: list[ReconstructRequest]) -> None:
    for name, (kind, _) in Options.INPUT_TYPES()["optional"].items():
        for word in kind if isinstance(kind, list) else ():
            make(options=Options().options(**{name: word})[0])
    assert len(sent) > 15


def test_a_value_outside_is_refused_before_the_worker(sent: list[ReconstructRequest]) -> None:
    with pytest.raises(OptionError, match="face_budget is 3"):
        make(options=Options().options(face_budget=3)[0])
    with pytest.raises(OptionError, match="steps is 900"):
        Options().options(steps=900)
    assert sent == []


# -- MOGE_GEOMETRY


def test_a_geometry_becomes_the_point_map(sent: list[ReconstructRequest]) -> None:
    make(moge_geometry=geometry(), options=Options().options(steps=9)[0])
    given = sent[0].sam3d
    assert given.steps == 9 and given.pointmap_frame == "pytorch3d"
    assert given.pointmap is not None and given.pointmap.shape == (HIGH, WIDE, 3)
    assert np.isnan(given.pointmap[0]).all() and np.allclose(given.pointmap[1:, :, 2], 1)
    assert given.pointmap[-1, 0, 0] > 0 > given.pointmap[-1, 0, 1], "x to the left, y up"
    assert np.allclose(given.intrinsics, fov_intrinsics(60, (HIGH, WIDE)))


def test_tensors_and_other_sizes(sent: list[ReconstructRequest]) -> None:
    torch = pytest.importorskip("torch")
    small = {name: torch.from_numpy(value) for name, value in geometry(size=(HIGH // 2, WIDE // 2)).items()}
    make(moge_geometry=small)
    assert sent[0].sam3d.pointmap.shape == (HIGH, WIDE, 3)


def test_each_picture_of_a_batch_has_its_own(sent: list[ReconstructRequest]) -> None:
    make(np.concatenate([IMAGE, IMAGE]), MASKS, moge_geometry=geometry(2))
    assert [float(np.nanmax(request.sam3d.pointmap[..., 2])) for request in sent] == [1, 2]


@pytest.mark.parametrize(
    ("pictures", "wrong", "words"),
    [
        (1, geometry(2), "1 picture and a MOGE_GEOMETRY of 2"),
        (2, geometry(1), "2 pictures and a MOGE_GEOMETRY of 1"),
        (1, geometry(size=(WIDE, HIGH)), "not the same view"),
        (1, geometry(intrinsics=None), "panorama"),
        (1, {"image": IMAGE, "intrinsics": fov_intrinsics(60, (HIGH, WIDE))[None]}, "no MOGE_GEOMETRY"),
        (1, "geometry", "no MOGE_GEOMETRY"),
        (1, geometry(points=geometry()["points"][..., :2]), "shape"),
        (1, geometry(points=-geometry()["points"]), "behind the camera"),
        (1, geometry(points=geometry()["points"] * np.array([-1, -1, 1], np.float32)), "left and right swapped"),
        (1, geometry(mask=np.zeros((1, HIGH, WIDE), bool)), "no valid point"),
    ],
)
def test_a_wrong_geometry_is_refused_before_the_worker(sent: list[ReconstructRequest], pictures: int, wrong: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        make(np.concatenate([IMAGE] * pictures), MASKS, moge_geometry=wrong)
    assert caught.value.hint and sent == []


# -- the engine itself


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBackend]:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("the layer `model` isn't installed: python sam3d.py test adds it")
    home = tmp_path_factory.mktemp("learned")
    ran = cli("weights", "fake", home / "weights", "--tiny", stub=False)
    assert ran.code == 0, ran.err
    variables = {
        "SAM3D_WORKER_PYTHON": sys.executable, "SAM3D_WEIGHTS": str(home / "weights"), "SAM3D_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    made = SharedBackend(lambda: LocalBackend(environment=variables))
    yield made
    made.close()


def test_the_learned_engine_behind_the_nodes(learned: SharedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two masks, options and a geometry -> a scene by tiny random weights, and its files."""
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path))
    for module in (reconstruct, export):
        monkeypatch.setattr(module, "shared", learned)
    (options,) = Options().options(steps=2, latent_steps=2, mesh="raw", texture="colors", splats_per_voxel="4")
    (scene,), (mesh,), (splat,) = make(options=options, names="left, right", moge_geometry=geometry())
    assert scene.engine == "sam3d" and [item.name for item in scene.objects] == ["left", "right"]
    assert any("random weights" in text for text in scene.warnings)
    in_effect = scene.parameters["in_effect"]
    assert (in_effect["steps"], in_effect["latent_steps"], in_effect["splats_per_voxel"], in_effect["texture"]) == (2, 2, 4, "colors")
    assert all(item.pose.translation[2] < 0 for item in scene.objects), "before the camera"
    assert len(mesh) == len(splat) == 2  # without a host: tuples
    made = NODE_CLASS_MAPPINGS["SAM3DExport"]().export(scene=scene, filename_prefix="two", glb=True, ply=True)
    assert [entry["filename"] for entry in made["ui"]["3d"]] == ["two_00001_.glb", "two_00001_.ply"]
    assert all(os.path.getsize(path) > 1000 for path in made["result"][:2])

    (few,) = Options().options(steps=2, latent_steps=2, splats_per_voxel="4", outputs="splats")
    (scene,), (mesh,), (splat,) = make(options=few, names="left, right", moge_geometry=geometry())
    assert all(item.mesh is None and item.splats is not None for item in scene.objects) and dict(scene.files) == {}
    assert mesh is None and len(splat) == 2 and "clean-up" not in scene.timings
    with pytest.raises(OutputError, match="no mesh"):
        NODE_CLASS_MAPPINGS["SAM3DExport"]().export(scene=scene, filename_prefix="two", glb=True, ply=True)
