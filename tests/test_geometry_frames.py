"""The one frame: one asymmetric object, written as mesh and as splats, must coincide after each reader's documented turn (docs/frames.md).

The object has a red arm to its left (+x), a green one up (+y) and a blue one to the front (+z), all of different lengths. Files are read by
libraries that aren't ours (trimesh, pygltflib, plyfile), and what each *program* does on loading is written down here as a rotation.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import InputError
from comfyui_sam3d.contract.request import ExportOptions
from comfyui_sam3d.contract.rotations import quaternion_product, rotation_matrices, rotation_quaternions
from comfyui_sam3d.contract.scene import SH_C0, Mesh, Pose, Scene, SceneObject, Splats
from comfyui_sam3d.worker.geometry import encode
from comfyui_sam3d.worker.geometry.files.glb import glb
from comfyui_sam3d.worker.geometry.frames import (
    CANONICAL_TO_OBJECT,
    FRAMES,
    P3D_TO_SCENE,
    Motion,
    from_sam3d_pose,
    to_sam3d_pose,
)
from comfyui_sam3d.worker.geometry.harmonics import basis, rotate_sh

ARMS = {"red": (0, 0.9), "green": (1, 0.6), "blue": (2, 0.3)}  # axis, length
POSE = Pose(tuple(rotation_quaternions(rotation_matrices(np.array([0.8, 0.2, -0.4, 0.4])))), (0.3, -1.2, 2.0), 1.7)

HALF_TURN_X, HALF_TURN_Y, HALF_TURN_Z = np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1])
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])

# program, ply_frame, what it does to the GLB, what it does to the splat PLY, what is left between the two
READERS = [
    ("ComfyUI", "y_down", np.eye(3), HALF_TURN_X, np.eye(3)),
    ("SuperSplat", "y_down", np.eye(3), HALF_TURN_Z, HALF_TURN_Y),  # upright, seen from behind first
    ("three.js", "y_up", np.eye(3), np.eye(3), np.eye(3)),
    ("Blender, Y up and -Z forward chosen", "y_up", Y_UP_TO_Z_UP, Y_UP_TO_Z_UP, np.eye(3)),
    ("Blender, as it comes", "z_up", Y_UP_TO_Z_UP, np.eye(3), np.eye(3)),
]


def tripod(pose: Pose | None = None) -> Scene:
    """Three arms: boxes with one texel each of a texture of three, and on each arm 20 splats, long along it."""
    corner = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    vertices, faces, uvs, positions, rotations, sh = [], [], [], [], [], []
    for axis, length in ARMS.values():
        size = np.full(3, 0.1, np.float32)
        size[axis] = length
        faces += [np.array([[a, b, c], [a, c, d]]) + 8 * axis for a, b, c, d in quads]
        vertices.append(corner * size)
        color = np.zeros(3)
        color[axis] = 1
        uvs.append(np.tile([(axis + 0.5) / 3, 0.5], (8, 1)))
        place = np.full((20, 3), 0.05)
        place[:, axis] = (np.arange(20) + 0.5) / 20 * length
        positions.append(place)
        # the first column is where the splat's own x axis goes: along the arm
        rotations.append(np.tile(rotation_quaternions(np.roll(np.eye(3), axis, axis=0)), (20, 1)))
        sh.append(np.tile((color - 0.5) / SH_C0, (20, 1)))
    mesh = Mesh(
        vertices=np.concatenate(vertices),
        faces=np.concatenate(faces).astype(np.uint32),
        uvs=np.concatenate(uvs).astype(np.float32),
        texture=255 * np.eye(3, dtype=np.uint8)[None],
        sampler="nearest",
    )
    splats = Splats(
        positions=np.concatenate(positions).astype(np.float32),
        scales=np.tile(np.array([0.03, 0.01, 0.005], np.float32), (60, 1)),
        rotations=np.concatenate(rotations).astype(np.float32),
        opacities=np.full(60, 0.95, np.float32),
        sh=np.concatenate(sh).astype(np.float32)[:, None],
    )
    return Scene((SceneObject("tripod", mesh, splats, pose or Pose()),), "test")


def arms_by_trimesh(data: bytes) -> dict[str, np.ndarray]:
    """Middle of each arm in the file's scene, node poses applied by trimesh."""
    import trimesh

    mesh = trimesh.load(io.BytesIO(data), file_type="glb", process=False).to_mesh()
    return _middles(np.asarray(mesh.vertices), np.asarray(mesh.visual.to_color().vertex_colors)[:, :3])


def arms_by_pygltflib(data: bytes) -> dict[str, np.ndarray]:
    """The same by hand from pygltflib's parse, with the node's rotation and the look into the texture written out."""
    import pygltflib
    from PIL import Image

    file = pygltflib.GLTF2.load_from_bytes(data)
    blob = file.binary_blob()

    def read(number: int, dtype: str, width: int) -> np.ndarray:
        accessor = file.accessors[number]
        view = file.bufferViews[accessor.bufferView]
        return np.frombuffer(blob, dtype, accessor.count * width, view.byteOffset).reshape(-1, width)

    node = file.nodes[0]
    attributes = file.meshes[node.mesh].primitives[0].attributes
    x, y, z, w = node.rotation or (0, 0, 0, 1)
    points = read(attributes.POSITION, "<f4", 3).astype(float) * (node.scale or (1, 1, 1))
    u = np.array([x, y, z])
    points = points + 2 * np.cross(u, np.cross(u, points) + w * points) + (node.translation or (0, 0, 0))
    view = file.bufferViews[file.images[0].bufferView]
    picture = np.asarray(Image.open(io.BytesIO(blob[view.byteOffset : view.byteOffset + view.byteLength])))
    u, v = read(attributes.TEXCOORD_0, "<f4", 2).T
    return _middles(points, picture[(v * picture.shape[0]).astype(int), (u * picture.shape[1]).astype(int)])


def arms_by_plyfile(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Middle of each arm of splats, and their covariance."""
    import plyfile

    rows = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
    points = np.stack([rows["x"], rows["y"], rows["z"]], axis=1).astype(float)
    color = np.stack([rows[f"f_dc_{i}"] for i in range(3)], axis=1)
    w, x, y, z = (rows[f"rot_{i}"].astype(float) for i in range(4))
    sizes = np.exp(np.stack([rows[f"scale_{i}"] for i in range(3)], axis=1).astype(float))
    turn = np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    ).transpose(2, 0, 1)
    spread = np.einsum("nij,nj,nkj->nik", turn, sizes**2, turn)
    return _middles(points, color), {arm: spread[color.argmax(axis=1) == axis].mean(axis=0) for arm, (axis, _) in ARMS.items()}


def _middles(points: np.ndarray, colors: np.ndarray) -> dict[str, np.ndarray]:
    strongest = colors.argmax(axis=1)
    return {arm: points[strongest == axis].mean(axis=0) for arm, (axis, _) in ARMS.items()}


@pytest.mark.parametrize("program, frame, turn_mesh, turn_splats, rest", READERS, ids=[r[0] for r in READERS])
@pytest.mark.parametrize("pose", [Pose(), POSE], ids=["unposed", "posed"])
def test_mesh_and_splats_coincide_in(
    program: str, frame: str, turn_mesh: np.ndarray, turn_splats: np.ndarray, rest: np.ndarray, pose: Pose
) -> None:
    files = encode(tripod(pose), ["glb", "ply"], ExportOptions(ply_frame=frame))
    splat_middles, spreads = arms_by_plyfile(files["splat.ply"])
    to_scene = pose.matrix()[:3, :3]
    for read in (arms_by_trimesh, arms_by_pygltflib):
        middles = read(files["model.glb"])
        for arm, (axis, _length) in ARMS.items():
            wanted = turn_mesh @ middles[arm]
            found = rest @ turn_splats @ splat_middles[arm]
            assert np.allclose(wanted, found, atol=1e-5), (program, arm, wanted, found)
            shown = rest @ turn_splats @ spreads[arm] @ (rest @ turn_splats).T
            direction = turn_mesh @ to_scene[:, axis] / pose.scale
            assert np.allclose(shown @ direction, (0.03 * pose.scale) ** 2 * direction, atol=1e-6), (program, arm)


def test_arms_point_where_the_page_says() -> None:
    """docs/frames.md, worked numbers: the middle of each arm in each file."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "frames.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| \((.+?)\) \| \((.+?)\) \| \((.+?)\) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["model.glb", *FRAMES]
    for file, *numbers in rows:
        if file == "model.glb":
            middles = arms_by_trimesh(glb(tripod()))
        else:
            middles, _ = arms_by_plyfile(encode(tripod(), ["ply"], ExportOptions(ply_frame=file))["splat.ply"])
        for arm, text in zip(ARMS, numbers):
            assert np.allclose(middles[arm], [float(number) for number in text.split(",")], atol=1e-6), (file, arm)


def test_mesh_ply_stands_upright_unless_z_up_is_asked_for() -> None:
    """No reader of meshes undoes y_down, so a mesh PLY doesn't have it. Read by trimesh and by plyfile."""
    import plyfile
    import trimesh

    for frame, turn in (("y_down", np.eye(3)), ("y_up", np.eye(3)), ("z_up", Y_UP_TO_Z_UP)):
        data = encode(tripod(), ["mesh_ply"], ExportOptions(ply_frame=frame))["mesh.ply"]
        mesh = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
        rows = plyfile.PlyData.read(io.BytesIO(data))["vertex"]
        by_hand = _middles(np.stack([rows[a] for a in "xyz"], axis=1), np.stack([rows[c] for c in ("red", "green", "blue")], axis=1))
        for arm, middle in _middles(mesh.vertices, mesh.visual.vertex_colors[:, :3]).items():
            assert np.allclose(middle, turn @ arms_by_trimesh(glb(tripod()))[arm], atol=1e-6)
            assert np.allclose(middle, by_hand[arm], atol=1e-6)


@pytest.mark.parametrize("turn", [*FRAMES.values(), CANONICAL_TO_OBJECT, P3D_TO_SCENE], ids=[*FRAMES, "canonical", "p3d"])
def test_every_turn_is_a_rotation(turn: np.ndarray) -> None:
    assert np.allclose(turn @ turn.T, np.eye(3)) and np.isclose(np.linalg.det(turn), 1)


def test_quaternions_of_any_rotation_come_back() -> None:
    rng = np.random.default_rng(1)
    some = rng.normal(size=(500, 4))
    some[:8] = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [1e-9, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, -1], [1e-4, 0, 0, 1]]
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    back = rotation_quaternions(rotation_matrices(some))
    assert np.allclose(np.abs((back * some).sum(axis=1)), 1, atol=1e-12)
    a, b = some[:250], some[250:]
    assert np.allclose(rotation_matrices(quaternion_product(a, b)), rotation_matrices(a) @ rotation_matrices(b), atol=1e-12)


def test_splats_are_moved_as_the_formulas_say_to_the_last_bit() -> None:
    """Zeros of either sign too, which quaternions of splats that aren't turned are full of."""
    rng = np.random.default_rng(2)
    turns, places = rng.normal(size=(400, 4)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    turns[:200][rng.random((200, 4)) < 0.4] *= 0
    turns[200], turns[201] = (1, 0, 0, 0), (0, -0.0, 0, -1)
    for own in (*FRAMES.values(), POSE.rotation_matrix()):
        motion, product = Motion(own, POSE.scale, POSE.translation), quaternion_product(rotation_quaternions(own), turns.astype(np.float64))
        assert motion.rotations(turns).T.tobytes() == product.astype(np.float32).tobytes()
        assert np.allclose(motion.positions(places).T, POSE.scale * (places @ own.T) + POSE.translation, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 9, 16])
def test_view_dependent_colours_turn_with_the_splat(count: int) -> None:
    """In direction R d the turned splat shows what the splat showed in direction d."""
    rng = np.random.default_rng(count)
    sh = rng.normal(size=(5, count, 3)).astype(np.float32)
    q = rng.normal(size=4)
    turn = rotation_matrices(q / np.linalg.norm(q))
    directions = rng.normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->ndc", basis(directions, count), sh)
    after = np.einsum("dk,nkc->ndc", basis(directions @ turn.T, count), rotate_sh(sh, turn))
    assert np.allclose(before, after, atol=1e-5)


def test_basis_is_orthonormal() -> None:
    """A wrong constant or a repeated function in the table would show here."""
    n = 20000
    up = 1 - 2 * (np.arange(n) + 0.5) / n
    angle = np.pi * (1 + 5**0.5) * np.arange(n)
    directions = np.stack([np.sqrt(1 - up**2) * np.cos(angle), np.sqrt(1 - up**2) * np.sin(angle), up], axis=1)
    values = basis(directions, 16)
    assert np.allclose(values.T @ values * 4 * np.pi / n, np.eye(16), atol=1e-4)


def test_model_pose_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(InputError, match="unequal scales"):
        from_sam3d_pose((1, 0, 0, 0), (0, 0, 0), (1, 1, 2))
    with pytest.raises(InputError):
        from_sam3d_pose((0, 0, 0, 0), (0, 0, 0), 1)


def test_model_pose_comes_back() -> None:
    q, t, s = to_sam3d_pose(from_sam3d_pose((0.1, -0.7, 0.5, 0.5), (1, 2, 3), (0.4, 0.4, 0.4)))
    assert np.allclose(np.abs(q @ np.array([0.1, -0.7, 0.5, 0.5])), 1) and np.allclose(t, (1, 2, 3)) and np.isclose(s, 0.4)
