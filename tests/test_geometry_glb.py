"""GLB files, read again by libraries that aren't ours, and their bytes checked by hand where a library forgives."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose, SceneObject
from comfyui_sam3d.contract.version import VERSION
from comfyui_sam3d.worker.geometry.files.glb import glb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geometry_shapes import POSE, accessor, chunks, globe, load, scene_of


def test_glb_by_hand() -> None:
    mesh = globe()
    camera = Camera("orthographic", 640, 480, Pose((1, 0, 0, 0), (0, 0, 3.0)), xmag=0.5, ymag=0.375)
    scene = scene_of(
        SceneObject("steak", mesh, pose=POSE, score=0.5, info={"preset": "prop", "gates": (np.float32(1.5), float("nan"))}),
        seed=7,
        camera=camera,
        parameters={"seed": 7, "draft": {"preset": "auto"}},
        timings={"inflate": 0.123},
    )
    data = glb(scene)
    root, blob = chunks(data)
    assert root["asset"]["version"] == "2.0" and VERSION in root["asset"]["generator"]
    assert root["asset"]["extras"] == {
        "engine": "test",
        "seed": 7,
        "version": VERSION,
        "parameters": {"seed": 7, "draft": {"preset": "auto"}},
    }
    assert "0.123" not in json.dumps(root)  # a time in the file would make equal requests unequal
    (node,) = root["nodes"]
    assert node["name"] == root["meshes"][0]["name"] == "steak" and node["scale"] == [2, 2, 2] and node["translation"] == [1, -2, 0.5]
    assert np.allclose(node["rotation"], [0.5, -0.5, 0.5, 0.5])  # x, y, z, w
    assert node["extras"] == {"score": 0.5, "info": {"preset": "prop", "gates": [1.5, None]}}
    assert root["scenes"] == [{"nodes": [0]}]
    (primitive,) = root["meshes"][0]["primitives"]
    positions = accessor(root, blob, primitive["attributes"]["POSITION"])
    assert np.array_equal(positions, mesh.vertices)
    bounds = root["accessors"][primitive["attributes"]["POSITION"]]
    assert np.array_equal(np.float32(bounds["min"]), positions.min(0)) and np.array_equal(np.float32(bounds["max"]), positions.max(0))
    assert np.array_equal(accessor(root, blob, primitive["attributes"]["TEXCOORD_0"]), mesh.uvs)  # not flipped
    assert np.allclose(np.linalg.norm(accessor(root, blob, primitive["attributes"]["NORMAL"]), axis=1), 1, atol=1e-5)
    indices = accessor(root, blob, primitive["indices"])
    assert indices.dtype == np.uint16 and np.array_equal(indices.reshape(-1, 3), mesh.faces)
    assert "COLOR_0" not in primitive["attributes"]
    material = root["materials"][primitive["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and material["doubleSided"] is False
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == pytest.approx(0.9) and "extensionsUsed" not in root
    assert root["samplers"] == [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}]
    for view in root["bufferViews"]:
        image = view == root["bufferViews"][root["images"][0]["bufferView"]]
        assert ("target" not in view) if image else view["target"] in (34962, 34963)
    (shot,) = root["cameras"]
    assert shot["orthographic"]["xmag"] == 0.5 and shot["extras"] == {"translation": [0, 0, 3], "width": 640, "height": 480}
    assert all("camera" not in node for node in root["nodes"])  # an importer must not get a camera with every prop


def test_glb_by_two_libraries() -> None:
    import pygltflib
    import trimesh
    from PIL import Image

    mesh, name = globe(), "Stück Fleisch 肉"
    data = glb(scene_of(SceneObject(name, mesh, pose=POSE), SceneObject("b", globe(6, 4, seed=1))))
    file = pygltflib.GLTF2.load_from_bytes(data)
    assert [node.name for node in file.nodes] == [name, "b"] and len(file.images) == 2
    view = file.bufferViews[file.images[0].bufferView]
    picture = Image.open(io.BytesIO(file.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]))
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), mesh.texture)

    loaded = load(data, "glb")
    assert set(loaded.geometry) == {name, "b"}
    assert np.allclose(loaded.graph[name][0], POSE.matrix(), atol=1e-6)
    body = loaded.geometry[name]
    assert np.array_equal(body.vertices, mesh.vertices) and np.array_equal(body.faces, mesh.faces)
    assert np.array_equal(np.asarray(body.visual.material.baseColorTexture.convert("RGB")), mesh.texture)
    assert body.visual.material.metallicFactor == 0
    welded = trimesh.Trimesh(body.vertices, body.faces)
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight and welded.is_winding_consistent and welded.volume > 0
    # Our normals, of split vertices too, are those that trimesh finds on the welded body (roughly: it weighs by angle).
    outward = np.einsum("vi,vi->v", body.vertex_normals, mesh.vertices / (1, 0.64, 0.25))
    assert (outward > 0.2).all()


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_seam_has_one_normal(zero: float) -> None:
    mesh = globe()
    vertices = mesh.vertices.reshape(9, 13, 3).copy()
    vertices[:, -1, 0] = zero  # what it is already, but for the sign
    mesh = mesh.replace(vertices=vertices.reshape(-1, 3))
    root, blob = chunks(glb(scene_of(SceneObject("a", mesh))))
    normals = accessor(root, blob, root["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]).reshape(9, 13, 3)
    assert np.array_equal(normals[:, 0], normals[:, -1])


def test_glb_with_many_vertices_counts_in_32_bits() -> None:
    for rows, kind in ((255, np.uint16), (256, np.uint32)):  # 256 * 256 = 65536 vertices, 65535 being no index
        mesh = globe(columns=255, rows=rows - 1 if rows == 255 else 255)
        root, blob = chunks(glb(scene_of(SceneObject("a", mesh))))
        indices = accessor(root, blob, root["meshes"][0]["primitives"][0]["indices"])
        assert indices.dtype == kind and np.array_equal(indices.reshape(-1, 3), mesh.faces)


def test_textures_are_shared_and_samplers_kept() -> None:
    mesh = globe()
    twin = mesh.replace(texture=mesh.texture.copy())
    pixel = globe(seed=2).replace(sampler="nearest")
    root, _ = chunks(glb(scene_of(SceneObject("a", mesh), SceneObject("b", twin), SceneObject("c", pixel))))
    assert len(root["images"]) == len(root["textures"]) == len(root["materials"]) == 2
    assert root["samplers"][1] == {"magFilter": 9728, "minFilter": 9728, "wrapS": 33071, "wrapT": 33071}


def test_vertex_colours_are_linear() -> None:
    mesh = globe().replace(texture=None, uvs=None)
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices), 4), dtype=np.uint8)
    colors[0] = (0, 255, 188, 128)
    root, blob = chunks(glb(scene_of(SceneObject("a", mesh.replace(vertex_colors=colors)))))
    number = root["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert root["accessors"][number]["normalized"] is True
    linear = accessor(root, blob, number) / 65535
    assert np.allclose(linear[0], (0, 1, 0.5029, 128 / 255), atol=1e-4)
    assert (np.argsort(linear[:, 0], kind="stable") == np.argsort(colors[:, 0], kind="stable")).all()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_mesh_comes_back_from_glb(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 40))
    number = st.floats(-1e3, 1e3, width=32)
    vertices = data.draw(arrays(np.float32, (count, 3), elements=number))
    faces = data.draw(arrays(np.uint32, (data.draw(st.integers(1, 30)), 3), elements=st.integers(0, count - 1)))
    uvs = data.draw(arrays(np.float32, (count, 2), elements=st.floats(0, 1, width=32)))
    name = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
    mesh = Mesh(vertices, faces, uvs=uvs, texture=np.zeros((2, 2, 3), np.uint8))
    encoded = glb(scene_of(SceneObject(name, mesh)))
    root, blob = chunks(encoded)
    primitive = root["meshes"][0]["primitives"][0]
    assert root["nodes"][0]["name"] == name
    assert np.array_equal(accessor(root, blob, primitive["attributes"]["POSITION"]), vertices)
    assert np.isfinite(accessor(root, blob, primitive["attributes"]["NORMAL"])).all()
    (body,) = load(encoded, "glb").geometry.values()
    assert np.array_equal(body.vertices, vertices) and np.array_equal(body.faces, faces)
