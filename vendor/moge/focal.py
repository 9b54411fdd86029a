"""Focal length and shift from a point map, and the camera's intrinsics (spec: moge.md section 3). numpy and scipy, no network.

Points are in OpenCV axes. A focal length is in units of half the picture's diagonal; so are places in the picture, counted from its middle.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

SIDE = 64  # the problem is solved on a 64 x 64 sample, whatever the picture's shape


def aspect_parts(aspect: float) -> tuple[float, float]:
    """Half the width and half the height of a picture with `aspect` = width / height, in half diagonals."""
    diagonal = (1 + aspect**2) ** 0.5
    return aspect / diagonal, 1 / diagonal


def places(height: int, width: int) -> np.ndarray:
    """(H, W, 2) float32: each pixel centre's offset from the middle, u to the right and v downwards."""
    half_width, half_height = aspect_parts(width / height)
    x, y = half_width * (width - 1) / width, half_height * (height - 1) / height
    u, v = np.linspace(-x, x, width, dtype=np.float32), np.linspace(-y, y, height, dtype=np.float32)
    return np.stack(np.broadcast_arrays(u, v[:, None]), axis=-1)


def sample(length: int) -> np.ndarray:
    """The SIDE rows or columns that are looked at, of `length`."""
    return np.arange(SIDE) * length // SIDE


def recover(points: np.ndarray, mask: np.ndarray | None = None, focal: float | None = None) -> tuple[float, float]:
    """(H, W, 3), bool (H, W) -> focal and shift, such that focal * (x, y) / (z + shift) is each pixel's place, as nearly as it gets.

    A given focal is kept. A negative focal means that x and y point the wrong way.
    """
    grid = np.ix_(sample(points.shape[0]), sample(points.shape[1]))
    return solve(points[grid], places(*points.shape[:2])[grid], None if mask is None else mask[grid], focal)


def solve(points: np.ndarray, uv: np.ndarray, mask: np.ndarray | None = None, focal: float | None = None) -> tuple[float, float]:
    """`recover` on a sample: (..., 3) and (..., 2), bool (...). Points that aren't finite don't count.

    Fewer than two points, or points on the optical axis alone, tell nothing: shift 0, and focal 1 unless one is given.
    """
    usable = np.isfinite(points).all(-1) & (points[..., 2] != 0)
    if mask is not None:
        usable &= mask
    xy, z, uv = points[usable][:, :2], points[usable][:, 2], uv[usable]
    nothing = (1.0 if focal is None else float(focal), 0.0)
    if len(z) < 2 or not xy.any():
        return nothing

    def focal_for(flat: np.ndarray) -> float:
        """Least squares has a closed form once the shift is fixed."""
        return float((flat * uv).sum() / np.square(flat).sum()) if focal is None else focal

    def misses(shift: np.ndarray) -> np.ndarray:
        flat = xy / (z + shift)[:, None]
        return (focal_for(flat) * flat - uv).ravel()

    with np.errstate(all="ignore"):
        # A coarse tolerance, on purpose: a finer one finds another shift than the published model's.
        found = least_squares(misses, x0=0.0, method="lm", ftol=1e-3).x[0]
        shift = np.float32(found)
        best = focal_for(xy / (z + shift)[:, None])
    return (float(best), float(shift)) if np.isfinite(best) and np.isfinite(shift) else nothing


def focal_of_fov(fov_x: float, aspect: float) -> float:
    """A horizontal field of view in degrees -> focal length in half diagonals."""
    return aspect_parts(aspect)[0] / float(np.tan(np.radians(fov_x) / 2))


def intrinsics(focal: float, aspect: float) -> np.ndarray:
    """(3, 3) float32 for a picture of size 1 x 1: square pixels, the optical axis through the middle."""
    half_width, half_height = aspect_parts(aspect)
    return np.array([[focal / (2 * half_width), 0, 0.5], [0, focal / (2 * half_height), 0.5], [0, 0, 1]], np.float32)
