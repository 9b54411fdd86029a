"""Scenes as files want them: targets, the floor, origins, levels of detail, hulls, the camera. Every file is read again by a library that isn't ours."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError, SetupError
from comfyui_sam3d.contract.request import ExportOptions, ReconstructRequest
from comfyui_sam3d.contract.scene import Camera, Mesh, Pose, Scene, SceneObject
from comfyui_sam3d.contract.targets import TARGETS
from comfyui_sam3d.worker.draft.presets import resolve
from comfyui_sam3d.worker.geometry import encode, ready
from comfyui_sam3d.worker.geometry.assemble import Assembly
from comfyui_sam3d.worker.geometry.floor import floor_of, ground
from comfyui_sam3d.worker.geometry.frames import compose, from_sam3d_pose, inverse

from geometry_shapes import POSE, chunks, cloud, globe, load, scene_of

Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) -> (x, -z, y)
EYES = Camera("perspective", 640, 480, yfov=0.8)


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    """A closed box, its colours varying from corner to corner."""
    corner = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))], np.uint32)
    colors = np.concatenate([200 * corner, np.full((8, 1), 255)], axis=1).astype(np.uint8)
    return Mesh(np.float32(low) + corner * (np.float32(high) - np.float32(low)), faces, vertex_colors=colors)


def turned(axis: str, degrees: float) -> tuple[float, ...]:
    half = math.radians(degrees) / 2
    return (math.cos(half), *(math.sin(half) if axis == name else 0.0 for name in "xyz"))


def mesh_points(files: dict[str, bytes], kind: str) -> np.ndarray:
    """The vertices of model.<kind> or mesh.ply in the file's own coordinates, in the order of faces, by trimesh."""
    name, form = {"stl": ("model.stl", "stl"), "mesh_ply": ("mesh.ply", "ply"), "obj": ("model.obj", "obj")}[kind]
    return np.asarray(load(files[name], form).triangles).reshape(-1, 3)


# Targets

WANTED = {  # target -> turn and unit of obj, stl and mesh_ply; of splats; hull's name; a camera node
    "none": ((np.eye(3), np.eye(3), np.eye(3)), 1, np.diag([1.0, -1, -1]), "thing_collider", False),
    "blender": ((np.eye(3), Z_UP, Z_UP), 1, Z_UP, "thing_collider", True),
    "unity": ((np.eye(3),) * 3, 1, np.diag([1.0, -1, -1]), "thing_collider", False),
    "unreal": ((Z_UP,) * 3, 100, np.diag([1.0, -1, -1]), "UCX_thing_00", False),
    "godot": ((np.eye(3),) * 3, 1, np.eye(3), "thing-convcolonly", False),
    "web": ((np.eye(3),) * 3, 1, np.eye(3), "thing_collider", False),
}


@pytest.mark.parametrize("target", TARGETS)
def test_files_of_a_target(target: str) -> None:
    """Axes, units, origins, names and the camera node, by trimesh, pygltflib and plyfile."""
    import plyfile
    import pygltflib

    pytest.importorskip("torch", reason="hulls need the layer `model`")
    turns, unit, splat_turn, hull, camera_node = WANTED[target]
    mesh, splats = globe().replace(vertices=globe().vertices + np.float32([0.3, 5, -0.2])), cloud()
    scene = scene_of(SceneObject("thing", mesh, splats, POSE), camera=EYES)
    files = encode(scene, ["glb", "stl", "mesh_ply", "ply"], ExportOptions(target=target, collision=True))
    files |= encode(scene, ["obj"], ExportOptions(target=target))
    placed = POSE.apply(mesh.vertices)[mesh.faces].reshape(-1, 3)
    for kind, turn in zip(("obj", "stl", "mesh_ply"), turns):
        points = mesh_points(files, kind)
        assert np.allclose(points, unit * placed @ turn.T, atol=1e-4 * unit), kind
    rows = plyfile.PlyData.read(io.BytesIO(files["splat.ply"]))["vertex"]
    assert np.allclose(np.stack([rows[a] for a in "xyz"], 1), POSE.apply(splats.positions) @ splat_turn.T, atol=1e-5)

    # The GLB is the same for everybody in axes and metres: the object stands where it stood, whatever its origin is.
    loaded = load(files["model.glb"], "glb")
    matrix, _ = loaded.graph["thing"]
    body = loaded.geometry["thing"]
    assert np.allclose(body.vertices @ matrix[:3, :3].T + matrix[:3, 3], POSE.apply(mesh.vertices), atol=1e-4)
    middle, low = (body.vertices.min(0) + body.vertices.max(0)) / 2, body.vertices.min(0)
    assert np.allclose([middle[0], low[1], middle[2]], 0, atol=1e-6) == (target != "none")
    file = pygltflib.GLTF2.load_from_bytes(files["model.glb"])
    names = [node.name for node in file.nodes]
    assert names == ["thing", hull, *(["camera"] if camera_node else [])]
    assert [node.camera for node in file.nodes if node.camera is not None] == ([0] if camera_node else [])


def test_given_options_win_over_the_target() -> None:
    options = ExportOptions(target="unreal", up="y", unit="m", origin="keep", ply_frame="z_up", camera_node=True)
    scene = scene_of(SceneObject("a", globe(), cloud(), POSE), camera=EYES)
    files = encode(scene, ["stl", "glb", "ply"], options)
    assert np.allclose(mesh_points(files, "stl"), POSE.apply(globe().vertices)[globe().faces].reshape(-1, 3), atol=1e-5)
    root, _ = chunks(files["model.glb"])
    assert root["nodes"][0]["translation"] == [1, -2, 0.5] and root["nodes"][1] == {"name": "camera", "camera": 0}
    assert files["splat.ply"] == encode(scene, ["ply"], ExportOptions(ply_frame="z_up"))["splat.ply"]


def test_ply_frame_is_about_ply_files() -> None:
    scene, plain = scene_of(SceneObject("a", globe())), globe().vertices[globe().faces].reshape(-1, 3)
    files = encode(scene, ["stl", "obj", "mesh_ply"], ExportOptions(ply_frame="z_up"))
    for kind, turn in (("stl", np.eye(3)), ("obj", np.eye(3)), ("mesh_ply", Z_UP)):
        assert np.allclose(mesh_points(files, kind), plain @ turn.T, atol=1e-5), kind


@pytest.mark.parametrize(("unit", "factor"), [("m", 1), ("cm", 100), ("mm", 1000)])
def test_units(unit: str, factor: int) -> None:
    files = encode(scene_of(SceneObject("a", globe())), ["stl", "mesh_ply", "obj"], ExportOptions(unit=unit))
    for kind in ("stl", "mesh_ply", "obj"):
        assert np.allclose(np.ptp(mesh_points(files, kind), axis=0), factor * np.ptp(globe().vertices, axis=0), rtol=1e-5)


def test_texture_and_faces_of_a_target_are_defaults_of_the_request() -> None:
    picture, mask = np.zeros((4, 4, 3), np.uint8), np.ones((1, 4, 4), bool)

    def sizes(**more: object) -> tuple[int | None, int | None, int | None]:
        made = ReconstructRequest(picture, mask, **more)
        assert ReconstructRequest(**vars(made)).content_key() == made.content_key()  # made again from its own fields, it is the same
        return made.texture_wanted, made.faces_wanted, made.export.max_texture

    web = ExportOptions(target="web")
    assert sizes() == (None, None, None) and sizes(export=ExportOptions(target="blender")) == (None, None, None)
    assert sizes(export=web) == (1024, 10_000, None)
    assert sizes(export=web, texture_size=2048, face_budget=700) == (2048, 700, 2048)
    small = resolve(ReconstructRequest(picture, mask, export=web, quality="best"), mask[0], False)
    assert (small.texture, small.face_budget, small.texture_fixed) == (1024, 10_000, False)  # small sprites aren't enlarged for a target
    with pytest.raises(OptionError, match="target"):
        ExportOptions(target="maya")


def test_large_textures_are_made_smaller_pixel_art_is_not() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    smooth, pixels = globe().replace(texture=texture), globe().replace(texture=texture, sampler="nearest")

    def shown(mesh: Mesh, **more: object) -> np.ndarray:
        (body,) = load(encode(scene_of(SceneObject("a", mesh)), ["glb"], ExportOptions(**more))["model.glb"], "glb").geometry.values()
        return np.asarray(body.visual.material.baseColorTexture.convert("RGB"))

    small = shown(smooth, max_texture=50)
    assert small.shape == (25, 50, 3) and np.abs(small - texture.reshape(25, 4, 50, 4, 3).mean((1, 3))).max() <= 1
    assert np.array_equal(shown(smooth, max_texture=200), texture) and np.array_equal(shown(pixels, max_texture=50), texture)
    big = smooth.replace(texture=np.zeros((2000, 1000, 3), np.uint8))
    assert shown(big, target="web").shape == (1024, 512, 3) and shown(big, target="unity").shape == (2000, 1000, 3)
    assert shown(big, target="web", max_texture=2048).shape == (2000, 1000, 3)


# Where things stand


def test_space_object_and_origins() -> None:
    scene = scene_of(SceneObject("a", globe(), cloud(), POSE), SceneObject("b", globe(), pose=POSE), camera=EYES)
    alone = Assembly(scene, ExportOptions(space="object", origin="center")).scene
    assert all(thing.pose == Pose() for thing in alone.objects) and alone.camera is None
    vertices = alone.objects[0].mesh.vertices
    assert np.allclose(vertices.min(0) + vertices.max(0), 0, atol=1e-6)
    for origin in ("keep", "bottom", "center"):  # whatever the origin, nothing moves in the scene, splats neither
        thing = Assembly(scene, ExportOptions(origin=origin)).scene.objects[0]
        assert np.allclose(thing.pose.apply(thing.mesh.vertices), POSE.apply(globe().vertices), atol=1e-5)
        assert np.allclose(thing.pose.apply(thing.splats.positions), POSE.apply(cloud().positions), atol=1e-5)


def test_poses_compose_and_invert() -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    other = Pose(tuple(turned("y", 50)), (0.1, 2, -3), 0.4)
    assert np.allclose(compose(other, POSE).apply(points), other.apply(POSE.apply(points)))
    assert np.allclose(inverse(POSE).apply(POSE.apply(points)), points)


TILT = Pose(tuple(turned("x", -24)), (0.3, -1.1, -4.0), 1.0)  # a table seen from above, in camera axes


def on_table(*more: SceneObject, camera: Camera = EYES) -> Scene:
    """Boxes that stand on a table which is tilted against the camera, their own frames upright on it."""
    places = ((-0.8, 0.2, 30), (0.1, -0.6, -70), (0.9, 0.5, 10))
    boxes = [
        SceneObject(f"box {i}", box((-0.5, 0, -0.4), (0.5, 1, 0.4)), pose=compose(TILT, Pose(tuple(turned("y", yaw)), (x, 0, z), 0.3)))
        for i, (x, z, yaw) in enumerate(places)
    ]
    return scene_of(*boxes, *more, camera=camera)


def test_the_floor_is_found_under_tilted_things() -> None:
    above = SceneObject("lid", box((-0.5, 0, -0.4), (0.5, 1, 0.4)), pose=compose(TILT, Pose((1, 0, 0, 0), (-0.8, 0.3, 0.2), 0.2)))
    for scene in (on_table(), on_table(above)):  # one that lies on another is outvoted
        floor = floor_of(scene)
        normal, table = floor.rotation_matrix()[:, 1], TILT.rotation_matrix()[:, 1]
        assert normal @ table > math.cos(math.radians(0.5))
        assert abs((np.array(floor.translation) - TILT.translation) @ table) < 0.01
        assert np.isclose(np.linalg.det(floor.rotation_matrix()), 1)
    wobbly = on_table()
    leaning = wobbly.objects[0].replace(pose=compose(wobbly.objects[0].pose, Pose(tuple(turned("z", 6)))))
    floor = floor_of(wobbly.replace(objects=(leaning, *wobbly.objects[1:])))  # the engine's poses are never exact
    assert floor.rotation_matrix()[:, 1] @ TILT.rotation_matrix()[:, 1] > math.cos(math.radians(3))


def test_the_floor_of_one_thing_and_of_a_flat_picture() -> None:
    lone = scene_of(SceneObject("a", box((-1, 2, -1), (1, 3, 1)), pose=TILT), camera=EYES)
    floor = floor_of(lone)
    assert np.allclose(floor.rotation_matrix()[:, 1], TILT.rotation_matrix()[:, 1], atol=1e-6)
    assert np.allclose((np.array(floor.translation) - TILT.apply(np.array([0.0, 2, 0]))) @ floor.rotation_matrix()[:, 1], 0, atol=1e-5)
    flat = Camera("orthographic", 64, 64, xmag=1, ymag=1)
    steps = [SceneObject(str(i), box((-0.1, 0, -0.1), (0.1, 0.2, 0.1)), pose=Pose((1, 0, 0, 0), (i, 0.3 * i, 0))) for i in range(3)]
    level = floor_of(scene_of(*steps, camera=flat))
    assert np.allclose(level.rotation_matrix(), np.eye(3)) and np.isclose(level.translation[1], 0)
    tilted = floor_of(scene_of(*steps, camera=EYES))
    assert np.isclose(tilted.rotation_matrix()[1, 1], 1 / math.hypot(1, 0.3), atol=0.02)  # with perspective it is a ramp
    assert floor_of(scene_of(SceneObject("nothing"))) is None and ground(scene_of()) is None
    assert floor_of(scene_of(SceneObject("splats", splats=cloud(50)))) is not None


def test_space_floor_levels_scene_and_camera() -> None:
    files = encode(on_table(), ["glb"], ExportOptions(space="floor", camera_node=True, objects=False))
    loaded = load(files["model.glb"], "glb")
    before, after = {}, {}
    for thing in on_table().objects:
        matrix, _ = loaded.graph[thing.name]
        before[thing.name] = thing.pose.apply(thing.mesh.vertices)
        after[thing.name] = thing.mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        assert np.isclose(after[thing.name][:, 1].min(), 0, atol=5e-3)
    root, _ = chunks(files["model.glb"])
    node = next(node for node in root["nodes"] if node["name"] == "camera")
    x, y, z, w = node["rotation"]
    camera = Pose((w, x, y, z), tuple(node["translation"]))
    for name in before:  # what the camera sees hasn't changed
        assert np.allclose(inverse(camera).apply(after[name]), before[name], atol=1e-5)


def test_ground_is_a_named_node_that_faces_up() -> None:
    thing = SceneObject("ground", box((-0.5, 0, -0.5), (0.5, 1, 0.5)))
    files = encode(on_table(thing), ["glb", "obj", "stl"], ExportOptions(ground=True, objects=True))
    loaded = load(files["model.glb"], "glb")
    assert list(loaded.geometry) == ["box 0", "box 1", "box 2", "ground", "ground-2"]
    matrix, _ = loaded.graph["ground-2"]
    plane = loaded.geometry["ground-2"]
    assert np.allclose(plane.face_normals, [0, 1, 0]) and len(plane.faces) == 2
    assert matrix[:3, 1] @ TILT.rotation_matrix()[:, 1] > 0.99
    local = (np.concatenate([t.pose.apply(t.mesh.vertices) for t in on_table(thing).objects]) - matrix[:3, 3]) @ matrix[:3, :3]
    assert (local[:, [0, 2]].min(0) > plane.vertices[:, [0, 2]].min(0)).all() and (
        local[:, [0, 2]].max(0) < plane.vertices[:, [0, 2]].max(0)
    ).all()
    assert b"o ground-2\n" in files["model.obj"] and b"o ground-2" not in files["objects/ground.obj"]
    assert len(load(files["model.stl"], "stl").faces) == 4 * 12  # nothing to print


# Levels of detail and hulls


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return globe(48, 32)


def test_levels_have_half_the_faces_and_the_colours(ball: Mesh) -> None:
    import trimesh

    pytest.importorskip("fast_simplification", reason="levels of detail need the layer `model`")
    ramp = (
        np.stack(np.broadcast_arrays(np.linspace(20, 220, 32)[:, None], 100, np.linspace(220, 20, 32)[:, None]), -1)
        .repeat(8, 1)
        .astype(np.uint8)
    )
    scene = scene_of(SceneObject("a", ball.replace(texture=ramp), pose=POSE), SceneObject("s", splats=cloud()))
    files = encode(scene, ["glb", "obj"], ExportOptions(lods=3, target="unity"))
    for name in ("model.glb", "objects/a.glb"):
        loaded = load(files[name], "glb")
        assert list(loaded.geometry) == ["a_LOD0", "a_LOD1", "a_LOD2", "a_LOD3"]
        counts = [len(body.faces) for body in loaded.geometry.values()]
        assert counts[0] == len(ball.faces) and all(0.4 < b / a <= 0.5 for a, b in itertools.pairwise(counts))
        whole = loaded.geometry["a_LOD0"]
        for level in list(loaded.geometry.values())[1:]:
            closed = trimesh.Trimesh(level.vertices, level.faces)
            assert closed.is_watertight and closed.is_winding_consistent and np.isclose(closed.volume, whole.volume, rtol=0.05)
            height = (level.vertices[:, 1] - whole.vertices[:, 1].min()) / np.ptp(whole.vertices[:, 1])
            red = np.asarray(level.visual.vertex_attributes["color"])[:, 0] / 65535
            assert np.corrcoef(height, red)[0, 1] < -0.9  # the ramp runs from the top down
        poses = [loaded.graph[body][0] for body in loaded.geometry]
        assert all(np.allclose(pose, poses[0]) for pose in poses)
    assert b"o a_LOD3\n" in files["model.obj"]


def test_hulls_hold_everything_and_are_convex(ball: Mesh) -> None:
    import trimesh

    pytest.importorskip("torch", reason="hulls need the layer `model`")
    files = encode(scene_of(SceneObject("Stück 1", ball, pose=POSE)), ["glb"], ExportOptions(collision=True, target="unreal", lods=1))
    loaded = load(files["model.glb"], "glb")
    assert list(loaded.geometry) == ["Stück 1_LOD0", "Stück 1_LOD1", "UCX_Stück 1_LOD0_00"]
    hull, body = loaded.geometry["UCX_Stück 1_LOD0_00"], loaded.geometry["Stück 1_LOD0"]
    closed = trimesh.Trimesh(hull.vertices, hull.faces)
    assert closed.is_watertight and closed.is_convex and len(hull.vertices) <= 32
    assert closed.volume > 0.8 * trimesh.Trimesh(body.vertices, body.faces).convex_hull.volume
    assert np.allclose(loaded.graph["Stück 1_LOD0"][0], loaded.graph["UCX_Stück 1_LOD0_00"][0])


def test_what_is_not_installed_is_said_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("av", "fast_simplification") else found(name, *rest)
    )
    for formats, options, words in (
        (["glb"], ExportOptions(lods=1), "--layers model"),
        (["obj"], ExportOptions(collision=True), "--layers model"),
        (["video"], ExportOptions(), "--layers video"),
    ):
        with pytest.raises(SetupError, match=words):
            ready(formats, options)
        with pytest.raises(SetupError, match=words):
            encode(scene_of(SceneObject("a", globe())), formats, options)
    ready(["stl", "preview"], ExportOptions(lods=2, collision=True))


# Splats for strict readers


@pytest.mark.parametrize(("coefficients", "degree", "columns"), [(1, 0, 17), (1, 1, 26), (1, 3, 62), (4, 3, 62), (9, 1, 41), (16, 3, 62)])
def test_padded_harmonics(coefficients: int, degree: int, columns: int) -> None:
    import plyfile

    splats = cloud(7, coefficients)
    rows = plyfile.PlyData.read(
        io.BytesIO(encode(scene_of(SceneObject("a", splats=splats)), ["ply"], ExportOptions(pad_sh=degree, ply_frame="y_up"))["splat.ply"])
    )
    vertex = rows["vertex"]
    names = [p.name for p in vertex.properties]
    assert len(names) == columns and names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9 : columns - 8] == [f"f_rest_{i}" for i in range(columns - 17)]
    rest = np.stack([vertex[name] for name in names[9 : columns - 8]] or [np.zeros(7)], 1).reshape(7, 3 if columns > 17 else 1, -1)
    own = coefficients - 1
    if own:
        assert np.array_equal(rest[:, :, :own], splats.sh[:, 1:].transpose(0, 2, 1))
    assert not rest[:, :, own:].any()


# The photo's camera


def test_the_cameras_node_sees_what_the_model_meant() -> None:
    """A point in PyTorch3D's camera axes falls on the pixel that its intrinsics say, seen through the GLB's own camera and node, by pygltflib's numbers."""
    import pygltflib

    width, height, focal = 640, 480, 1.1  # focal: of a picture of height 1
    quaternion, translation, scale = (0.8, 0.2, -0.4, 0.4), (0.2, -0.1, 2.0), 0.7
    canonical = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 3))
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    seen = canonical * scale @ matrix + translation  # x left, y up, z forward
    wanted = np.stack([width / 2 - focal * height * seen[:, 0] / seen[:, 2], height / 2 - focal * height * seen[:, 1] / seen[:, 2]], 1)

    mesh = Mesh((canonical[:, [0, 2, 1]] * (1, 1, -1)).astype(np.float32), np.uint32([[0, 1, 2], [3, 4, 5], [5, 6, 7]]))
    camera = Camera("perspective", width, height, yfov=2 * math.atan(0.5 / focal))
    scene = scene_of(SceneObject("a", mesh, pose=from_sam3d_pose(quaternion, translation, scale)), camera=camera)
    for space in ("scene", "floor"):
        file = pygltflib.GLTF2.load_from_bytes(
            encode(scene, ["glb"], ExportOptions(target="blender", space=space, origin="keep"))["model.glb"]
        )
        lens, node = file.cameras[0].perspective, next(node for node in file.nodes if node.camera == 0)
        assert np.isclose(lens.aspectRatio, width / height)
        thing = file.nodes[0]

        def pose(node: pygltflib.Node) -> Pose:
            qx, qy, qz, qw = node.rotation or (0, 0, 0, 1)
            return Pose((qw, qx, qy, qz), tuple(node.translation or (0, 0, 0)), (node.scale or (1,))[0])

        points = inverse(pose(node)).apply(pose(thing).apply(mesh.vertices.astype(float)))
        tangent = 2 * math.tan(lens.yfov / 2)
        u = width / 2 + height * points[:, 0] / -points[:, 2] / tangent
        v = height / 2 - height * points[:, 1] / -points[:, 2] / tangent
        assert np.allclose(np.stack([u, v], 1), wanted, atol=1e-2), space


def test_the_page_lists_the_targets_as_they_are() -> None:
    """docs/targets.md, the table of presets."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(" `"): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.splitlines()
        if line.startswith("| `")
    }
    for name, target in TARGETS.items():
        up = "y" if not target.up else "z" if len(target.up) == 3 else f"y; z in {' and '.join(target.up)}"
        numbers = [f"{n:,}".replace(",", " ") if n else "as the quality says" for n in (target.texture_size, target.face_budget)]
        wanted = [
            up,
            target.unit,
            f"`{target.ply_frame}`",
            target.origin,
            *numbers,
            "yes" if target.camera_node else "no",
            f"`{target.collision.format(name='NAME')}`",
        ]
        assert rows[name] == wanted, name
