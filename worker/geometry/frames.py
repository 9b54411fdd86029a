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
from ...contract.rotations import rotation_quaternions
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
# Of Hamilton's product, below.
_SIGNS = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]], np.float64).reshape(4, 2, 2, 1)


class Motion:
    """`x -> scale * rotation @ x + translation` for blocks of splats: rows in, columns out, since a processor works along columns.

    Everything is worked out in float64 and rounded to float32 once.
    """

    def __init__(self, rotation: np.ndarray, scale: float = 1.0, translation: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.turn, self.scale, self.offset = np.asarray(rotation, np.float64), scale, np.asarray(translation)[:, None]
        self._factors = _SIGNS * rotation_quaternions(self.turn)[:, None, None, None]

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """float32 (N, 3) -> (3, N)."""
        turned = np.multiply((rows @ self.turn.T).T, self.scale, order="C")
        turned += self.offset
        return turned.astype(np.float32)

    def rotations(self, rows: np.ndarray) -> np.ndarray:
        """Quaternions float32 (N, 4), w first -> (4, N): Hamilton's product in four steps.

        What step i multiplies with factor i of this motion's own quaternion, and adds to component k, is component k XOR i: the same numbers, pairs or halves swapped.
        """
        old = np.ascontiguousarray(rows.T, np.float64).reshape(2, 2, -1)
        new, term = self._factors[0] * old, np.empty_like(old)
        for factor, swapped in zip(self._factors[1:], (old[:, ::-1], old[::-1], old[::-1, ::-1])):
            new += np.multiply(factor, swapped, out=term)
        return new.reshape(4, -1).astype(np.float32)

    def scales(self, values: np.ndarray) -> np.ndarray:
        """Standard deviations, any shape."""
        return values if self.scale == 1 else values * np.float32(self.scale)

    def sh(self, coefficients: np.ndarray) -> np.ndarray:
        """float32 (N, K, 3) -> the same."""
        return rotate_sh(coefficients, self.turn)


def move_splats(splats: Splats, rotation: np.ndarray, scale: float = 1.0, translation: Sequence[float] = (0.0, 0.0, 0.0)) -> Splats:
    """`x -> scale * rotation @ x + translation`, done to positions, orientations, sizes and, above degree 0, to the colours' directions."""
    motion = Motion(rotation, scale, translation)
    positions, rotations = np.empty_like(splats.positions), np.empty_like(splats.rotations)
    with np.errstate(invalid="ignore", over="ignore"):  # rows that aren't finite are the writers' business
        for start in range(0, len(positions), _BLOCK):
            block = slice(start, start + _BLOCK)
            positions[block] = motion.positions(splats.positions[block]).T
            rotations[block] = motion.rotations(splats.rotations[block]).T
        return splats.replace(positions=positions, rotations=rotations, scales=motion.scales(splats.scales), sh=motion.sh(splats.sh))


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
