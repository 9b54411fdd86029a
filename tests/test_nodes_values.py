"""MESH and SPLAT of a scene: batches, places, textures, frames."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.contract.scene import Mesh, Pose, Scene, SceneObject, Splats
from comfyui_sam3d.nodes import _values

QUARTER = (2**-0.5, 0.0, 2**-0.5, 0.0)  # a quarter turn about y: z becomes x


def made(count: int, size: int, pose: Pose = Pose(), **more: Any) -> SceneObject:  # noqa: B008 - a frozen record
    rng = np.random.default_rng(count)
    vertices = rng.random((count, 3), np.float32)
    mesh = Mesh(
        vertices=vertices,
        faces=np.arange(count // 3 * 3, dtype=np.uint32).reshape(-1, 3),
        normals=np.tile(np.array([0, 0, 1], np.float32), (count, 1)),
        uvs=rng.random((count, 2), np.float32),
        texture=np.full((size, size * 2, 3), count, np.uint8),
    )
    splats = Splats(
        positions=vertices,
        scales=np.full((count, 3), 0.1, np.float32),
        rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        opacities=np.linspace(0, 1, count, dtype=np.float32),
        sh=rng.random((count, 4, 3), np.float32),
    )
    return SceneObject(name=f"o{count}", mesh=mesh.replace(**more), splats=splats, pose=pose)


def scene(*objects: SceneObject) -> Scene:
    return Scene(objects=objects, engine="draft")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's two classes, as plain holders of what they are given."""

    class Types:
        class MESH:
            def __init__(
                self, vertices, faces, uvs=None, vertex_colors=None, texture=None, vertex_counts=None, face_counts=None, normals=None
            ):  # type: ignore[no-untyped-def]
                self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

        class SPLAT:
            def __init__(self, positions, scales, rotations, opacities, sh, counts=None):  # type: ignore[no-untyped-def]
                self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

    module = types.ModuleType("comfy_api.latest")
    module.__dict__["Types"] = Types
    monkeypatch.setitem(sys.modules, "comfy_api.latest", module)
    monkeypatch.setitem(sys.modules, "torch", None)  # arrays are easier to look at


def test_one_mesh_is_a_batch_of_one(host: None) -> None:
    found = _values.mesh_of(scene(made(9, 4)))
    assert found.vertices.shape == (1, 9, 3) and found.faces.shape == (1, 3, 3) and found.faces.dtype == np.int64
    assert found.texture.shape == (1, 4, 8, 3) and found.uvs.shape == (1, 9, 2)
    assert found.vertex_counts is None and found.face_counts is None


def test_texture_values_survive_being_cut_off(host: None) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    found = _values.mesh_of(scene(made(6, 4, texture=every)))
    assert found.texture.min() >= 0 and found.texture.max() <= 1
    assert ((found.texture[0] * np.float32(255)).astype(np.uint8) == every).all()
    assert (np.rint(found.texture[0] * 255) == every).all()


def test_several_meshes_are_padded_and_share_a_canvas(host: None) -> None:
    small, large = made(6, 4), made(9, 8)
    found = _values.mesh_of(scene(small, large))
    assert found.vertices.shape == (2, 9, 3) and found.vertex_counts.tolist() == [6, 9] and found.face_counts.tolist() == [2, 3]
    assert (found.vertices[0, 6:] == 0).all()
    assert found.texture.shape == (2, 8, 16, 3)
    assert ((found.texture[0] * 255).astype(np.uint8) == 6).all(), "the border repeats to the canvas's edge"
    assert np.allclose(found.uvs[0, :6], small.mesh.uvs * 0.5) and np.allclose(found.uvs[1], large.mesh.uvs)  # type: ignore[union-attr]


def test_meshes_stand_where_their_poses_say(host: None) -> None:
    thing = made(6, 4, Pose(rotation=QUARTER, translation=(1, 2, 3), scale=2))
    found = _values.mesh_of(scene(thing))
    x, y, z = thing.mesh.vertices.T  # type: ignore[union-attr]
    assert np.allclose(found.vertices[0], np.stack([2 * z + 1, 2 * y + 2, -2 * x + 3], 1), atol=1e-6)
    assert np.allclose(found.normals[0], [1, 0, 0], atol=1e-6)


def test_colours_and_bare_meshes(host: None) -> None:
    coloured = made(6, 4, texture=None, uvs=None, vertex_colors=np.full((6, 4), 51, np.uint8))
    found = _values.mesh_of(scene(coloured, coloured))
    assert found.texture is None and np.allclose(found.vertex_colors, 0.2) and found.vertex_counts is None
    mixed = _values.mesh_of(scene(coloured, made(9, 4)))
    assert mixed.texture is None and mixed.vertex_colors is None and mixed.vertices.shape == (2, 9, 3)
    assert _values.mesh_of(scene(made(6, 4, normals=None), made(6, 4))).normals is None


def test_splats_are_in_the_frame_of_splat_files(host: None) -> None:
    thing = made(6, 4, Pose(translation=(1, 2, 3), scale=2))
    found = _values.splat_of(scene(thing, made(4, 4)))
    expected = (thing.splats.positions * 2 + [1, 2, 3]) * [1, -1, -1]  # type: ignore[union-attr]
    assert found.counts.tolist() == [6, 4] and found.positions.shape == (2, 6, 3)
    assert np.allclose(found.positions[0], expected, atol=1e-6)
    assert np.allclose(found.scales[0], 0.2) and found.opacities.shape == (2, 6, 1) and found.sh.shape == (2, 6, 1, 3)


def test_a_splat_turns_with_its_object(host: None) -> None:
    """The longest axis of a splat, followed through pose and frame, points where the same vector of the mesh points after the half turn."""
    thing = made(6, 4, Pose(rotation=QUARTER))
    found = _values.splat_of(scene(thing))
    w, x, y, z = found.rotations[0, 0]
    first_axis = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])  # where the splat's own x axis goes
    assert np.allclose(first_axis, [0, 0, 1], atol=1e-6)  # x -> -z by the pose, -z -> z by the half turn about x


def test_hosts_without_these_types_get_records() -> None:
    thing = made(6, 4, Pose(translation=(1, 0, 0)))
    (mesh,) = _values.mesh_of(scene(thing))
    (splats,) = _values.splat_of(scene(thing))
    assert isinstance(mesh, Mesh) and isinstance(splats, Splats)
    assert np.allclose(mesh.vertices[:, 0], thing.mesh.vertices[:, 0] + 1)  # type: ignore[union-attr]


def test_what_isnt_there_blocks_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_values._host, "nothing", lambda why: why)
    empty = SceneObject(name="nothing")
    assert "no mesh" in _values.mesh_of(scene(empty)) and "no splats" in _values.splat_of(scene(empty))
