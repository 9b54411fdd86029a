"""A rasteriser for Gaussian splats: elliptical weighted averaging, sorted front to back, exact alpha compositing per pixel.

Splats are worked off in depth order, in blocks of about a million (splat, pixel) pairs: each pair is made once, sorted to its pixel by a
sparse transpose (a counting sort in C), composited, and blended behind the blocks before it. Splats that lie wholly behind finished pixels
are skipped. Source of the constants (low-pass 0.3 px^2, 1/255, 0.99): spec/postprocess.md section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....contract.rotations import rotation_matrices
from ....contract.scene import Camera, Scene, Splats
from ..frames import place_splats
from ..harmonics import basis
from .camera import expand, focal, project, to_camera

_LOW_PASS = 0.3  # px^2, added to every splat's image
_FAINT = 1 / 255  # a contribution below this isn't drawn
_OPAQUE = 0.99  # no single splat covers more
_DONE = 1e-3  # light left in a pixel below which nothing behind it is drawn
_BLOCK = 1 << 20  # pairs


@dataclass
class _Ellipses:
    """Splats in the picture. xy: centres (N, 2) px; a, b, c: inverse covariance, a dx^2 + 2 b dx dy + c dy^2; cut: the value of that at
    which a splat turns faint; color (N, 3); distance: from the camera."""

    xy: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    cut: np.ndarray
    opacity: np.ndarray
    color: np.ndarray
    distance: np.ndarray

    def __getitem__(self, which: np.ndarray | slice) -> _Ellipses:
        return _Ellipses(*(column[which] for column in vars(self).values()))

    @property
    def det(self) -> np.ndarray:
        return self.a * self.c - self.b * self.b


def render_splats(what: Scene | Splats, camera: Camera, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 4), sRGB, straight alpha. Splats behind `znear` (perspective) and broken rows are left out."""
    placed = [place_splats(o.splats, o.pose) for o in what.objects if o.splats is not None] if isinstance(what, Scene) else [what]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # broken rows drop out at the end of it
        parts = [_project(splats, camera, width, height) for splats in placed if len(splats.positions)]
    image, light = np.zeros((height * width, 3), np.float32), np.ones(height * width, np.float32)
    if parts:
        seen = _Ellipses(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts))))
        _composite(seen[np.argsort(seen.distance, kind="stable")], width, height, image, light)
    alpha = 1 - light
    out = np.empty((height, width, 4), np.uint8)
    out[:, :, :3] = np.clip(np.round(255 * image / np.maximum(alpha, 1e-6)[:, None]), 0, 255).reshape(height, width, 3)
    out[:, :, 3] = np.round(255 * alpha).reshape(height, width)
    return out


def _project(splats: Splats, camera: Camera, width: int, height: int) -> _Ellipses:
    """The splats that can be seen."""
    points = to_camera(camera, splats.positions)
    xy, distance = project(camera, width, height, points)
    across, down = focal(camera, width, height)
    to_view = camera.pose.rotation_matrix().T.astype(np.float32)
    axes = rotation_matrices(splats.rotations) * splats.scales[:, None, :]  # columns: the splat's axes, one sigma long
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
    found = _Ellipses(xy, yy / det, -xy_ / det, xx / det, cut, opacity, splats.sh[:, 0], distance)[keep]
    found.color = _colors(splats, camera, keep)
    return found


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


def _composite(splats: _Ellipses, width: int, height: int, image: np.ndarray, light: np.ndarray) -> None:
    """Blend splats, nearest first, into image (H W, 3); light (H W,) is what still shines through."""
    tall = np.sqrt(splats.cut * splats.a / splats.det)  # half height of the ellipse
    top = np.clip(np.ceil(splats.xy[:, 1] - tall - 0.5), 0, height).astype(np.int32)
    rows = np.maximum(np.clip(np.floor(splats.xy[:, 1] + tall + 0.5), 0, height).astype(np.int32) - top, 0)
    pairs = np.cumsum(np.pi * splats.cut / np.sqrt(splats.det) + rows)  # about as many as there will be
    start = 0
    while start < len(rows):
        before = pairs[start - 1] if start else 0
        end = max(int(np.searchsorted(pairs, before + _BLOCK, side="right")), start + 1)
        _blend(splats[start:end], top[start:end], rows[start:end], width, image, light)
        start = end


def _blend(splats: _Ellipses, top: np.ndarray, rows: np.ndarray, width: int, image: np.ndarray, light: np.ndarray) -> None:
    """One block of splats in depth order; each covers `rows` rows from `top` down."""
    from scipy.sparse import csr_matrix

    owner, step = expand(rows)
    y = top[owner] + step
    dy = y + np.float32(0.5) - splats.xy[owner, 1]
    a = splats.a[owner]
    middle = splats.xy[owner, 0] - splats.b[owner] / a * dy
    half = np.sqrt(np.maximum(splats.cut[owner] * a - splats.det[owner] * dy * dy, 0)) / a
    left = np.clip(np.ceil(middle - half - 0.5), 0, width).astype(np.int32) + y * width
    right = np.clip(np.floor(middle + half + 0.5), 0, width).astype(np.int32) + y * width
    unfinished = np.concatenate([[0], np.cumsum(light > _DONE)])
    alive = np.flatnonzero((right > left) & (unfinished[right] > unfinished[left]))
    owner, dy, left, right = owner[alive], dy[alive], left[alive], right[alive]

    row, step = expand(right - left)
    pixel = left[row] + step
    dx = (left % width + np.float32(0.5) - splats.xy[owner, 0])[row] + step.astype(np.float32)
    # (a dx^2 + 2 b dx dy + c dy^2) / 2, with what doesn't change along a row taken out
    linear, constant = splats.b[owner] * dy, 0.5 * splats.c[owner] * dy * dy - np.log(splats.opacity[owner])
    alpha = np.exp(-((0.5 * splats.a[owner])[row] * dx + linear[row]) * dx - constant[row])
    np.minimum(alpha, _OPAQUE, out=alpha)

    count = np.bincount(owner, weights=right - left, minlength=len(rows)).astype(np.int64)
    table = csr_matrix((alpha, pixel, np.concatenate([[0], np.cumsum(count)])), shape=(len(rows), len(light))).tocsc()
    # Now pixel by pixel, nearest first: what shines through to each splat is the product over those before it.
    through = np.concatenate([[0.0], np.cumsum(np.log1p(-table.data.astype(np.float64)))])
    start, end = through[table.indptr[:-1]], through[table.indptr[1:]]
    arriving = np.exp(through[:-1] + np.repeat(np.log(np.maximum(light, 1e-30)) - start, np.diff(table.indptr)))
    weights = (arriving * table.data).astype(np.float32)
    image += csr_matrix((weights, table.indices, table.indptr), shape=(len(light), len(rows))) @ splats.color
    light *= np.exp(end - start).astype(np.float32)
