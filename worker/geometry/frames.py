"""The one frame, and every turn away from it (docs/frames.md).

Ours is glTF's: right-handed, x right, y up, front towards +z, metres; matrices act on column vectors; quaternions are
(w, x, y, z). Other conventions appear here and nowhere else, each under its own name:

    FRAMES            what `ply_frame` does to coordinates: y_up (nothing), y_down, z_up
    *_sam3d_*         the published model's: row vectors, PyTorch3D camera axes, the inverse quaternion (contract/original.py)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...contract.original import CANONICAL_TO_OBJECT, P3D_TO_SCENE, from_sam3d_pose, to_sam3d_pose
from ...contract.rotations import quaternion_product, rotation_quaternions
from ...contract.scene import Mesh, Pose, Splats
from .harmonics import rotate_sh

__all__ = ["CANONICAL_TO_OBJECT", "FRAMES", "P3D_TO_SCENE", "from_sam3d_pose", "to_sam3d_pose"]

# ply_frame -> the rotation from our frame to the file's. All are proper rotations: nothing is ever mirrored.
FRAMES: dict[str, np.ndarray] = {
    "y_up": np.eye(3),
    "y_down": np.diag([1.0, -1.0, -1.0]),  # half a turn about x: the frame of 3DGS training data
    "z_up": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),  # (x, y, z) -> (x, -z, y): Blender's, and the model's own
}

_BLOCK = 1 << 13  # splats that stay in a processor's cache, and are too few for BLAS to wake further threads


def move_splats(splats: Splats, rotation: np.ndarray, scale: float = 1.0, translation: Sequence[float] = (0.0, 0.0, 0.0)) -> Splats:
    """`x -> scale * rotation @ x + translation`, done to positions, orientations, sizes and, above degree 0, to the colours' directions."""
    turn, offset = np.asarray(rotation, np.float64), np.asarray(translation)
    quaternion = rotation_quaternions(turn)
    positions, rotations = np.empty_like(splats.positions), np.empty_like(splats.rotations)
    with np.errstate(invalid="ignore", over="ignore"):  # rows that aren't finite are the writers' business
        for start in range(0, len(positions), _BLOCK):  # worked out in float64
            block = slice(start, start + _BLOCK)
            positions[block] = scale * (splats.positions[block] @ turn.T) + offset
            rotations[block] = quaternion_product(quaternion, splats.rotations[block])
        return splats.replace(
            positions=positions, rotations=rotations, scales=splats.scales * np.float32(scale), sh=rotate_sh(splats.sh, turn)
        )


def move_mesh(mesh: Mesh, rotation: np.ndarray, scale: float = 1.0, translation: Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
    """`x -> scale * rotation @ x + translation`, done to vertices and normals."""
    turn = np.asarray(rotation, np.float64)
    normals = None if mesh.normals is None else (mesh.normals @ turn.T).astype(np.float32)
    vertices = (scale * (mesh.vertices @ turn.T) + np.asarray(translation)).astype(np.float32)
    return mesh.replace(vertices=vertices, normals=normals)


def place_splats(splats: Splats, pose: Pose) -> Splats:
    """Object -> scene."""
    return splats if pose == Pose() else move_splats(splats, pose.rotation_matrix(), pose.scale, pose.translation)


def place_mesh(mesh: Mesh, pose: Pose) -> Mesh:
    """Object -> scene."""
    return mesh if pose == Pose() else move_mesh(mesh, pose.rotation_matrix(), pose.scale, pose.translation)


def compose(outer: Pose, inner: Pose) -> Pose:
    """`inner`, then `outer`."""
    turn = outer.rotation_matrix() @ inner.rotation_matrix()
    moved = outer.apply(np.asarray(inner.translation, np.float64))
    return Pose(tuple(rotation_quaternions(turn).tolist()), tuple(moved.tolist()), outer.scale * inner.scale)


def inverse(pose: Pose) -> Pose:
    """`compose(inverse(pose), pose)` moves nothing."""
    back = pose.rotation_matrix().T
    moved = -(back @ np.asarray(pose.translation)) / pose.scale
    return Pose(tuple(rotation_quaternions(back).tolist()), tuple(moved.tolist()), 1 / pose.scale)
