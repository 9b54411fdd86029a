"""Real spherical harmonics up to degree 3, as 3D Gaussian Splatting uses them: the view-dependent colour of a splat.

The basis and its signs are those of the 3DGS file format (the Condon-Shortley phase is in the constants). Only splats with K > 1
coefficients need any of this; ours usually have K = 1.
"""

from __future__ import annotations

import numpy as np

from ...contract.scene import SH_C0


def basis(directions: np.ndarray, count: int) -> np.ndarray:
    """Unit directions (N, 3), splat seen from the camera -> (N, count), count = 1, 4, 9 or 16."""
    x, y, z = np.asarray(directions, np.float64).T
    rows = [np.full_like(x, SH_C0)]
    if count > 1:
        c = 0.4886025119029199  # sqrt(3 / 4 pi)
        rows += [-c * y, c * z, -c * x]
    if count > 4:
        c = 1.0925484305920792  # sqrt(15 / 4 pi)
        rows += [c * x * y, -c * y * z, 0.31539156525252005 * (3 * z * z - 1), -c * x * z, 0.5 * c * (x * x - y * y)]
    if count > 9:
        a, b, c = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
        rows += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            0.5 * b * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return np.stack(rows[:count], axis=1)


def rotate_sh(sh: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Coefficients (N, K, 3) of turned splats: the turned splat shows in direction R d what it showed in direction d. float32.

    Each degree is closed under rotation, so its matrix is found by solving for it on a few well-spread directions: exact up to rounding.
    """
    count = sh.shape[1]
    if count == 1 or np.allclose(rotation, np.eye(3), atol=1e-12):
        return sh
    turns = np.arange(40) + 0.5  # a Fibonacci sphere
    up = 1 - 2 * turns / 40
    flat = np.sqrt(1 - up * up)
    angle = np.pi * (1 + 5**0.5) * turns
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), up], axis=1)
    before, after = basis(directions, count), basis(directions @ np.asarray(rotation).T, count)
    turned = np.array(sh, np.float32)
    for first, last in ((1, 4), (4, 9), (9, 16)):
        if last <= count:
            matrix = np.linalg.lstsq(after[:, first:last], before[:, first:last], rcond=None)[0]
            turned[:, first:last] = np.einsum("ij,njc->nic", matrix, sh[:, first:last])
    return turned
