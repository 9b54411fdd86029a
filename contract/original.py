"""The published model's convention of a pose, and the way to and from ours (docs/frames.md).

There: row vectors, PyTorch3D camera axes (x left, y up, z forward), canonical objects with z up, and a quaternion that is the inverse of the
column-vector rotation. The learned engine translates from it, and whoever answers in the words of other people's code translates back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import InputError
from .rotations import rotation_matrices, rotation_quaternions
from .scene import Pose

CANONICAL_TO_OBJECT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # canonical (z up) -> ours: (x, y, z) -> (x, z, -y)
P3D_TO_SCENE = np.diag([-1.0, 1.0, -1.0])  # PyTorch3D camera axes -> glTF's (x right, y up, z backward)


def from_sam3d_pose(quaternion: Sequence[float], translation: Sequence[float], scale: Sequence[float] | float) -> Pose:
    """The published model's pose -> ours, for an object whose points went through CANONICAL_TO_OBJECT.

    There `p_cam = (p_obj * s) @ R(q) + t` with row vectors, p_obj canonical z-up, p_cam in PyTorch3D camera axes: q is the *inverse*
    of the column-vector rotation. The result maps our object frame to glTF camera axes: a glTF camera at the origin, unturned,
    sees the photo's view. scale: a number or three equal ones. Source: spec/postprocess.md section 9; golden `scene_assembly`.
    Raises InputError where the scales differ or the quaternion is zero.
    """
    sizes = np.atleast_1d(np.asarray(scale, np.float64)).ravel()
    q = np.asarray(quaternion, np.float64).ravel()
    length = np.linalg.norm(q)
    if np.ptp(sizes) > 1e-4 * sizes.max() or not length > 0:
        raise InputError("The model's pose has unequal scales or no rotation.", "Average the scales and normalise the quaternion first.")
    turn = P3D_TO_SCENE @ rotation_matrices(q / length).T @ CANONICAL_TO_OBJECT.T
    moved = P3D_TO_SCENE @ np.asarray(translation, np.float64).ravel()
    return Pose(tuple(rotation_quaternions(turn)), tuple(moved), float(sizes.mean()))


def to_sam3d_pose(pose: Pose) -> tuple[np.ndarray, np.ndarray, float]:
    """The inverse of `from_sam3d_pose`: (quaternion (4,), translation (3,), scale) in the published model's convention."""
    turn = P3D_TO_SCENE.T @ pose.rotation_matrix() @ CANONICAL_TO_OBJECT
    return rotation_quaternions(turn.T), P3D_TO_SCENE.T @ np.asarray(pose.translation), pose.scale
