"""A rasteriser for Gaussian splats: elliptical weighted averaging, sorted front to back, exact alpha compositing per pixel.

Splats are worked off in depth order, in blocks of about a million (splat, pixel) pairs: each pair is made once, sorted to its pixel by a sparse
transpose (a counting sort in C), composited, and blended behind the blocks before it. Splats that lie wholly behind finished pixels are skipped.
Source of the constants (low-pass 0.3 px^2, 1/255, 0.99): spec/postprocess.md section 4.3.
"""

from __future__ import annotations

import numpy as np

from ....contract.scene import Camera, Scene, Splats
from ..frames import matrices, place_splats
from ..harmonics import basis
from .camera import expand, focal, project, to_camera

_LOW_PASS = 0.3  # px^2, added to every splat's image
_FAINT = 1 / 255  # a contribution below this isn't drawn
_OPAQUE = 0.99  # no single splat covers more
_DONE = 1e-3  # light left in a pixel below which nothing behind it is drawn
_BLOCK = 1 << 20  # pairs


def render_splats(what: Scene | Splats, camera: Camera, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 4), sRGB, straight alpha. Splats behind `znear` (perspective) and broken rows are left out."""
    placed = [place_splats(o.splats, o.pose) for o in what.objects if o.splats is not None] if isinstance(what, Scene) else [what]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # broken rows drop out at the end of it
        parts = [_project(splats, camera, width, height) for splats in placed if len(splats.positions)]
    image, light = np.zeros((height * width, 3), np.float32), np.ones(height * width, np.float32)
    if parts:
        xy, conic, cut, opacity, color, distance = (np.concatenate(columns) for columns in zip(*parts))
        order = np.argsort(distance, kind="stable")
        _composite(*(column[order] for column in (xy, conic, cut, opacity, color)), width, height, image, light)
    alpha = 1 - light
    out = np.empty((height, width, 4), np.uint8)
    out[:, :, :3] = np.clip(np.round(255 * image / np.maximum(alpha, 1e-6)[:, None]), 0, 255).reshape(height, width, 3)
    out[:, :, 3] = np.round(255 * alpha).reshape(height, width)
    return out


def _project(splats: Splats, camera: Camera, width: int, height: int) -> tuple[np.ndarray, ...]:
    """The splats that can be seen: centre (N, 2) px, inverse covariance (N, 3), half extent (N, 2) px, opacity, colour, distance."""
    points = to_camera(camera, splats.positions)
    xy, distance = project(camera, width, height, points)
    across, down = focal(camera, width, height)
    to_view = camera.pose.rotation_matrix().T.astype(np.float32)
    axes = matrices(splats.rotations) * splats.scales[:, None, :]  # columns: the splat's axes, one sigma long
    seen = to_view @ axes  # (N, 3, 3) in camera axes
    if camera.kind == "perspective":
        near = np.maximum(distance, camera.znear)
        # Far outside the picture the linearisation explodes: its direction is held at 1.3 times the picture's edge.
        tx = np.clip(points[:, 0] / near, -0.65 * width / across, 0.65 * width / across)
        ty = np.clip(points[:, 1] / near, -0.65 * height / down, 0.65 * height / down)
        u = across * (seen[:, 0] + tx[:, None] * seen[:, 2]) / near[:, None]
        v = -down * (seen[:, 1] + ty[:, None] * seen[:, 2]) / near[:, None]
    else:
        u, v = across * seen[:, 0], -down * seen[:, 1]
    xx, yy, xy_ = (u * u).sum(axis=1) + _LOW_PASS, (v * v).sum(axis=1) + _LOW_PASS, (u * v).sum(axis=1)
    det = xx * yy - xy_ * xy_
    opacity = np.minimum(splats.opacities, 1.0)
    cut = 2 * np.log(np.maximum(opacity, _FAINT) / _FAINT)  # squared Mahalanobis distance where it turns faint
    reach = np.sqrt(cut[:, None] * np.stack([xx, yy], axis=1))
    inside = ((xy + reach > 0) & (xy - reach < (width, height))).all(axis=1)
    keep = inside & (opacity > _FAINT) & (det > 0) & np.isfinite(xy).all(axis=1) & np.isfinite(det) & np.isfinite(cut)
    if camera.kind == "perspective":
        keep &= distance > camera.znear
    keep &= np.isfinite(splats.sh[:, 0]).all(axis=1)
    conic = np.stack([yy, -xy_, xx], axis=1)[keep] / det[keep, None]
    return xy[keep], conic, cut[keep], opacity[keep], _colors(splats, camera, keep), distance[keep]


def _colors(splats: Splats, camera: Camera, keep: np.ndarray) -> np.ndarray:
    """(N, 3) float32 as seen from the camera, not below 0."""
    if splats.sh.shape[1] == 1:
        return np.maximum(splats.colors()[keep], 0)
    if camera.kind == "perspective":
        directions = splats.positions[keep] - np.asarray(camera.pose.translation, np.float32)
        directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    else:
        directions = np.broadcast_to(-camera.pose.rotation_matrix()[:, 2], (int(keep.sum()), 3))
    values = np.einsum("nk,nkc->nc", basis(directions, splats.sh.shape[1]), splats.sh[keep])
    return np.maximum(values + 0.5, 0).astype(np.float32)


def _composite(
    xy: np.ndarray, conic: np.ndarray, cut: np.ndarray, opacity: np.ndarray, color: np.ndarray,
    width: int, height: int, image: np.ndarray, light: np.ndarray,
) -> None:  # fmt: skip
    """Blend splats, nearest first, into image (H W, 3); light (H W,) is what still shines through."""
    a, b, c = conic.T
    det = a * c - b * b
    tall = np.sqrt(cut * a / det)  # half height of the ellipse
    top = np.clip(np.ceil(xy[:, 1] - tall - 0.5), 0, height).astype(np.int32)
    rows = np.maximum(np.clip(np.floor(xy[:, 1] + tall + 0.5), 0, height).astype(np.int32) - top, 0)
    pairs = np.cumsum(np.pi * cut / np.sqrt(det) + rows)
    ends = np.searchsorted(pairs, np.arange(_BLOCK, (pairs[-1] if len(pairs) else 0) + _BLOCK, _BLOCK), side="right")
    start = 0
    for end in (*ends.tolist(), len(xy)):
        end = max(end, min(start + 1, len(xy)))
        if end > start:
            block = slice(start, end)
            values = (item[block] for item in (xy, a, b, c, det, cut, opacity, color, top, rows))
            _blend(*values, width, image, light)
            start = end


def _blend(
    xy: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, det: np.ndarray, cut: np.ndarray, opacity: np.ndarray, color: np.ndarray,
    top: np.ndarray, rows: np.ndarray, width: int, image: np.ndarray, light: np.ndarray,
) -> None:  # fmt: skip
    """One block of splats in depth order."""
    from scipy.sparse import csr_matrix

    owner, step = expand(rows)
    y = top[owner] + step
    dy = y + np.float32(0.5) - xy[owner, 1]
    middle = xy[owner, 0] - b[owner] / a[owner] * dy
    half = np.sqrt(np.maximum(cut[owner] * a[owner] - det[owner] * dy * dy, 0)) / a[owner]
    left = np.clip(np.ceil(middle - half - 0.5), 0, width).astype(np.int32)
    right = np.clip(np.floor(middle + half + 0.5), 0, width).astype(np.int32)
    left += y * width
    right += y * width
    unfinished = np.concatenate([[0], np.cumsum(light > _DONE)])
    alive = np.flatnonzero((right > left) & (unfinished[right] > unfinished[left])) if len(left) else np.zeros(0, np.int64)
    owner, dy, left, right = owner[alive], dy[alive], left[alive], right[alive]

    row, step = expand(right - left)
    pixel = left[row] + step
    dx = (left % width + np.float32(0.5) - xy[owner, 0])[row] + step
    # power = (a dx^2 + 2 b dx dy + c dy^2) / 2, with what doesn't change along a row taken out of the inner loop
    linear, constant = b[owner] * dy, 0.5 * c[owner] * dy * dy - np.log(opacity[owner])
    alpha = np.exp(-((0.5 * a[owner])[row] * dx + linear[row]) * dx - constant[row])
    np.minimum(alpha, _OPAQUE, out=alpha)

    count = np.bincount(owner, weights=right - left, minlength=len(xy)).astype(np.int64)
    table = csr_matrix((alpha, pixel, np.concatenate([[0], np.cumsum(count)])), shape=(len(xy), len(light))).tocsc()
    through = np.log1p(-table.data.astype(np.float64))
    behind = np.concatenate([[0.0], np.cumsum(through)])
    start, end = behind[table.indptr[:-1]], behind[table.indptr[1:]]
    per_pixel = np.diff(table.indptr)
    in_front = np.exp(behind[:-1] - np.repeat(start - np.log(np.maximum(light, 1e-30)), per_pixel))
    weights = (in_front * table.data).astype(np.float32)
    image += csr_matrix((weights, table.indices, table.indptr), shape=(len(light), len(xy))) @ color
    light *= np.exp(end - start).astype(np.float32)
