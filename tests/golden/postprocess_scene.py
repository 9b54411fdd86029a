"""How the kinds of golden/postprocess about splats, poses and files are replayed: gaussian_ply, pose_decode, scene_assembly, axis_conversions,
glb_vertex_color. Bounds as the README beside them has them.

Each is held against what the product does: the raw splats of worker/sam3d, and the frames and file writers of worker/geometry.
"""

from __future__ import annotations

import io
import json

import numpy as np
import torch
import trimesh
from comfyui_sam3d.contract.rotations import rotation_matrices, rotation_quaternions
from comfyui_sam3d.contract.scene import Pose, Scene, SceneObject, Splats
from comfyui_sam3d.worker.geometry.files.glb import glb, linear_colors
from comfyui_sam3d.worker.geometry.files.splat_ply import ply_of_rows, read_splat_ply, splat_ply
from comfyui_sam3d.worker.geometry.frames import CANONICAL_TO_OBJECT, FRAMES, P3D_TO_SCENE, from_sam3d_pose, move_splats, place_splats
from comfyui_sam3d.worker.sam3d import pose, preprocess, scene_merge
from comfyui_sam3d.worker.sam3d.decoded import mesh_of, splats_of
from comfyui_sam3d.worker.sam3d.flexicubes import Surface
from comfyui_sam3d.worker.sam3d.gaussians import ATTRIBUTES, Encoding, Gaussians, from_records
from scipy.spatial.transform import Rotation

from . import replay

KERNEL = 9e-4  # of the released configuration


def gaussian_ply(x, meta):
    config = json.loads(meta["config"])
    encoding = Encoding(
        config["aabb"][0], config["aabb"][3], config["scaling_bias"], config["opacity_bias"], config["scaling_activation"] == "softplus"
    )
    kernel = config["mininum_kernel_size"]  # as the original spells it
    raw = Gaussians(*(x[f"in._{name}"] for name in ATTRIBUTES), kernel=kernel, encoding=encoding)
    splats = splats_of(raw)
    got = {
        "out.get_xyz": raw.positions(), "out.get_scaling": raw.scales(), "out.get_rotation": raw.rotations(),
        "out.get_opacity": raw.opacities(), "out.covariance6": _covariance(splats),
        "const.scale_bias": torch.tensor(encoding.raw_scale_bias), "const.opacity_bias": torch.tensor(encoding.raw_opacity_bias),
    }  # fmt: skip
    wrong = replay.compare(got, {name: x[name] for name in got}, 2e-6)

    theirs = x["out.ply_bytes"].numpy().tobytes()
    head, rows = _parts(theirs)
    if head.decode() != meta["ply_header"]:
        wrong.append("the golden's own header isn't the one of its metadata")
    for who, file, bound in (
        ("the original's columns", ply_of_rows(raw.records().numpy()), rows),
        (
            "our file",
            bytes(splat_ply(splats)),
            np.hstack([rows[:, :13], rows[:, 13:] / np.linalg.norm(rows[:, 13:], axis=1, keepdims=True)]),
        ),
    ):
        ours, values = _parts(file)
        if ours != head or values.shape != rows.shape:
            wrong.append(f"{who}: another header or size")
        elif not np.allclose(values, bound, rtol=2e-6, atol=2e-6):
            wrong.append(f"{who}: rows differ by up to {np.abs(values - bound).max():.3g}")

    back = from_records(torch.from_numpy(rows).double(), kernel, encoding)
    reloaded = {f"reload._{name}": getattr(back, name) for name in ATTRIBUTES} | {"reload.get_scaling": back.scales()}
    wrong += replay.compare(reloaded, {name: x[name] for name in reloaded}, 5e-6)
    read = read_splat_ply(theirs)
    for name, value in vars(splats).items():
        if not np.allclose(getattr(read, name), value, rtol=1e-5, atol=2e-6):
            wrong.append(f"read_splat_ply: {name} differ by up to {np.abs(getattr(read, name) - value).max():.3g}")
    return wrong


def _parts(file: bytes) -> tuple[bytes, np.ndarray]:
    end = file.index(b"end_header\n") + len(b"end_header\n")
    return file[:end], np.frombuffer(file[end:], "<f4").reshape(-1, 17).copy()


def _covariance(splats: Splats) -> torch.Tensor:
    """(N, 6): xx, xy, xz, yy, yz, zz."""
    axes = rotation_matrices(splats.rotations.astype(np.float64)) * splats.scales[:, None]
    upper = np.triu_indices(3)
    return torch.from_numpy((axes @ axes.transpose(0, 2, 1))[:, upper[0], upper[1]]).float()


def pose_decode(x, meta):
    wrong = []
    for convention in sorted({name.split(".")[0] for name in x}):
        inside = {name.removeprefix(f"{convention}.in."): value for name, value in x.items() if name.startswith(f"{convention}.in.")}
        wanted = {name: value for name, value in x.items() if name.startswith(f"{convention}.out.")}
        made = pose.decode_pose(inside, inside["scene_scale"], inside["scene_shift"], convention=convention)
        got = {f"{convention}.out.{name}": value for name, value in vars(made).items()}
        if "points_local" in inside:
            matrix = torch.eye(4)[None].repeat(len(made.scale), 1, 1)
            matrix[:, :3, :3] = made.scale[:, :, None] * pose.quat_to_matrix(made.rotation)
            matrix[:, 3, :3] = made.translation
            rows = matrix[:, :3, :3]
            length = rows.norm(dim=-1)
            points = pose.transform_points(inside["points_local"][None], made.rotation, made.translation, made.scale)[0]
            got |= {
                f"{convention}.out.matrix_row_convention": matrix, f"{convention}.out.points_camera": points,
                f"{convention}.out.decomposed_scale": length,
                f"{convention}.out.decomposed_quat": pose.matrix_to_quat(rows / length[..., None]),
            }  # fmt: skip
            ours = from_sam3d_pose(made.rotation[0], made.translation[0], made.scale[0])
            placed = (
                ours.apply(inside["points_local"].double().numpy() @ CANONICAL_TO_OBJECT.T) @ P3D_TO_SCENE
            )  # its inverse is its transpose
            if not np.allclose(placed, x[f"{convention}.out.points_camera"], atol=1e-5):
                wrong.append(f"{convention}: our pose puts points elsewhere")
        wrong += replay.compare(got, wanted, 1e-5)
    return wrong


def scene_assembly(x, meta):
    objects, ours = [], []
    for prefix in sorted({name.split(".")[0] for name in x if name.startswith("obj")}):
        raw = Gaussians(*(x[f"{prefix}.in._{name}"] for name in ATTRIBUTES), kernel=KERNEL)
        where = pose.DecodedPose(*(x[f"{prefix}.in.{name}"] for name in ("translation", "rotation", "scale")))
        objects.append((raw, where))
        ours.append(_through_our_frames(raw, where))
    scene = scene_merge.make_scene(objects)
    # `norm` starts from the merged scene; the alignment is made of raw positions there, of activated ones here: half a unit apart on each turned axis.
    norm = scene_merge.normalise_scene(scene)
    aligned = Gaussians(
        **{name: getattr(scene, name) for name in ATTRIBUTES} | {"xyz": x["fix_alignment._xyz"] + torch.tensor([1.0, 0.0, 0.0])}
    )
    got = {
        "scene._xyz": scene.xyz, "scene.get_xyz": scene.positions(), "scene.features_dc": scene.features_dc, "scene.get_opacity": scene.opacities(),
        "scene.get_scaling": scene.scales(), "scene.get_rotation": scene.rotations(), "scene.mininum_kernel_size": torch.tensor(scene.kernel),
        "norm.get_xyz": norm.positions(), "norm.get_scaling": norm.scales(), "norm.mininum_kernel_size": torch.tensor(norm.kernel),
    }  # fmt: skip
    sign = torch.where((got["scene.get_rotation"] * x["scene.get_rotation"]).sum(1, keepdim=True) < 0, -1.0, 1.0)
    wrong = replay.compare({**got, "scene.get_rotation": got["scene.get_rotation"] * sign}, {name: x[name] for name in got}, 1e-5)
    fixed = scene_merge.normalise_scene(scene, fix_alignment=True).positions()
    wrong += replay.compare({"fixed": fixed}, {"fixed": scene_merge.normalise_scene(aligned).positions()}, 1e-5)

    # The same splats through our frames: canonical -> our object -> our scene -> back to PyTorch3D's axes.
    moved = [splats for splats, _ in ours]
    turns = np.concatenate([splats.rotations for splats in moved])
    if not np.allclose(np.concatenate([splats.positions for splats in moved]), x["scene.get_xyz"], atol=1e-5):
        wrong.append("our frames put splats elsewhere")
    if not np.allclose(np.abs((turns * x["scene.get_rotation"].numpy()).sum(axis=1)), 1, atol=1e-5):
        wrong.append("our frames turn splats otherwise")
    # The original's merge keeps raw scales that were made over another smallest kernel; the spec gives what that shows.
    whole = float(x["scene.mininum_kernel_size"])
    scales = np.concatenate([np.sqrt(np.maximum(splats.scales, 1.1 * k) ** 2 - k**2 + whole**2) for splats, k in ours])
    if not np.allclose(scales, x["scene.get_scaling"], atol=1e-5):
        wrong.append("our frames scale splats otherwise")
    return wrong


def _through_our_frames(raw: Gaussians, where: pose.DecodedPose) -> tuple[Splats, float]:
    """-> placed splats in PyTorch3D's axes, and their smallest kernel."""
    ours = from_sam3d_pose(where.rotation[0], where.translation[0], where.scale[0])
    placed = place_splats(move_splats(splats_of(raw), CANONICAL_TO_OBJECT), ours)
    return move_splats(placed, P3D_TO_SCENE.T), KERNEL * ours.scale


def axis_conversions(x, meta):
    flip = np.diag([1.0, -1, -1])  # OpenCV camera axes <-> glTF's
    placed = from_sam3d_pose(x["layout.in.quat"], x["layout.in.t"], x["layout.in.s"])
    rows = (flip @ placed.rotation_matrix()).T  # the original exports the row-vector one, in OpenCV axes
    # Its quaternion and angles are of a matrix that acts on row vectors.
    quaternion = rotation_quaternions(rows)[None]
    got = {
        "verts_glb_yup": x["verts_zup"].numpy() @ CANONICAL_TO_OBJECT.T,
        "verts_back": x["verts_glb_yup"].numpy() @ FRAMES["z_up"].T,
        "pointmap_pytorch3d": preprocess.opencv_to_pytorch3d(x["pointmap_opencv"]).numpy(),
        "r3_to_p3d_R": (P3D_TO_SCENE.T @ flip)[None],
        "layout.halo.quat": quaternion * np.sign((quaternion * x["layout.halo.quat"].numpy()).sum()),
        "layout.halo.euler": Rotation.from_matrix(rows).as_euler("XYZ")[None],
        "layout.halo.t": (flip @ placed.translation)[None],
        "layout.halo.s": np.full((1, 3), placed.scale),
    }
    ours = x["pointmap_pytorch3d"].numpy() @ P3D_TO_SCENE.T
    wrong = (
        [] if np.allclose(ours, x["pointmap_opencv"].numpy() @ flip.T, atol=1e-6) else ["a point map in our frame isn't OpenCV's, flipped"]
    )
    wanted = {
        name: value for name, value in x.items() if name not in ("verts_zup", "pointmap_opencv") and not name.startswith("layout.in.")
    }
    return wrong + replay.compare({name: torch.from_numpy(np.array(value)) for name, value in got.items()}, wanted, 1e-6)


def glb_vertex_color(x, meta):
    mesh = mesh_of(Surface(x["in.vertices"], x["in.faces"], x["in.vertex_attrs"]))
    ours = mesh.replace(vertices=(mesh.vertices @ CANONICAL_TO_OBJECT.T).astype(np.float32))
    got = {"out.vertices": ours.vertices, "out.faces": ours.faces.astype(np.int64), "out.vertex_colors": ours.vertex_colors}
    wrong = replay.compare({name: torch.from_numpy(np.array(value)) for name, value in got.items()}, {name: x[name] for name in got}, 1e-6)
    theirs, made = (
        next(iter(trimesh.load(io.BytesIO(file), file_type="glb", process=False).geometry.values()))
        for file in (x["out.glb_bytes"].numpy().tobytes(), glb(Scene((SceneObject("a", ours, pose=Pose()),), "golden")))
    )
    if not (np.allclose(made.vertices, theirs.vertices, atol=1e-6) and np.array_equal(made.faces, theirs.faces)):
        wrong.append("our GLB read by trimesh isn't theirs")
    # Theirs holds sRGB where glTF wants linear colours; ours holds the same colours, made linear. Ours has a material, so trimesh keeps them aside.
    if not np.array_equal(made.visual.vertex_attributes["color"], linear_colors(theirs.visual.vertex_colors)):
        wrong.append("the colours of our GLB aren't theirs, made linear")
    return wrong


KINDS = {
    "gaussian_ply": gaussian_ply, "pose_decode": pose_decode, "scene_assembly": scene_assembly, "axis_conversions": axis_conversions,
    "glb_vertex_color": glb_vertex_color,
}  # fmt: skip
