"""One flattened Gaussian for each piece of the surface ("moment splats", spec draft_engine.md 5).

Each triangle is thought split into 4^n equal ones; all pieces of one triangle share their shape, so it is found once. One layer of such
splats lets 5 % of what lies behind it shine through, in dots (the spec's figures are of two layers, front and back, seen from the front). So there is
a second layer a little below: one wide splat for each unsplit triangle, in its mean colour. It adds a quarter or less to the count and brings the leak to
0.2 %, from the side too, without touching the outline.
"""

from __future__ import annotations

import numpy as np

from ...contract.rotations import rotation_quaternions
from ...contract.scene import SH_C0, Splats

GAMMA = 1.5  # widens a splat beyond its piece's own second moments: no holes
GAMMA_RIM = 1.0  # pieces at the silhouette, so that it doesn't grow
OPACITY = 0.95
GAMMA_UNDER = 1.5  # the layer below: wide enough to have no holes of its own
DEPTH_UNDER = 0.5  # how far below, in roots of its triangle's area
OPACITY_UNDER = 0.99
UPRIGHT = 0.05  # walls, seen edge-on from the front: they can't widen the silhouette
STEEP = 0.7  # cosine of the angle to the picture plane's normal
MOST = 2_000_000  # splats


def levels(positions: np.ndarray, faces: np.ndarray, edge: float, target: int) -> int:
    """How often to split each triangle in 4: until the mean edge is at most `edge` as seen from the front, and there are `target` pieces."""
    corners = positions[faces][..., :2]
    mean = float(np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).mean())
    n = 0
    while (mean / 2**n > edge or len(faces) * 4**n < target) and len(faces) * 4 ** (n + 1) <= MOST:
        n += 1
    return n


def cut_walls(
    positions: np.ndarray, faces: np.ndarray, wall: np.ndarray, rim: np.ndarray, uvs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixel art's walls in about square pieces: (positions, faces, rim, uvs) as `splat_surface` takes them, new vertices of their own at the end.

    A wall is one pixel wide and as deep as the whole sprite is thick; one splat along it would stick out at both ends.
    wall: bool (F,); each two such faces are a quad as `solid.voxels` makes them, its first side at the back.
    """
    first, second = faces[wall][0::2], faces[wall][1::2]
    a, b, c, d = positions[np.column_stack([first, second[:, 2]])].transpose(1, 0, 2)
    width, depth = (np.linalg.norm(side, axis=1).mean() for side in (b - a, d - a))
    count = int(np.ceil(depth / max(width, 1e-30)))
    if count < 2:
        return positions, faces, rim, uvs
    along = (np.arange(count + 1) / count)[:, None]
    left, right = a[:, None] + along * (d - a)[:, None], b[:, None] + along * (c - b)[:, None]  # (quads, count + 1, 3)
    here, there = slice(None, -1), slice(1, None)
    cut = np.stack([left[:, here], right[:, here], right[:, there], left[:, here], right[:, there], left[:, there]], 2).reshape(-1, 3)
    return (
        np.concatenate([positions, cut]),
        np.concatenate([faces[~wall], len(positions) + np.arange(len(cut)).reshape(-1, 3)]),
        np.concatenate([rim, np.ones(len(cut), bool)]),
        np.concatenate([uvs[~wall], uvs[wall].reshape(-1, 1, 2, 3, 2).repeat(count, 1).reshape(-1, 3, 2)]),
    )


def pieces(n: int) -> np.ndarray:
    """Barycentric corners (4^n, 3, 3) of the pieces of a triangle: piece, corner, weight of the triangle's corners."""
    corners = np.eye(3)[None]
    for _ in range(n):
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        corners = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (bc, ca, ab))])
    return corners


def splat_surface(
    positions: np.ndarray, faces: np.ndarray, rim: np.ndarray, uvs: np.ndarray, texture: np.ndarray, n: int, size: float
) -> Splats:
    """positions: float (V, 3), metres; faces: (F, 3), outward; rim: bool (V,), on the silhouette; uvs: float (F, 3, 2); texture: uint8 (H, W, 3);
    n: levels of splitting; size: metres of the longest side. Gives F * 4^n splats, face by face, then (n > 0) at most F of the layer below."""
    corners = positions[faces].astype(np.float64)
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1], corners[:, 0] - corners[:, 2]], 1)
    normal = np.cross(edges[:, 0], edges[:, 1])
    area = np.linalg.norm(normal, axis=1) / 2
    normal /= np.maximum(2 * area, 1e-30)[:, None]
    rotation, long, short = _principal(edges, normal)

    split = pieces(n)
    colour = _mean_colours(split, uvs, texture)
    on_rim = np.einsum("pkw,fw->fpk", split, rim[faces].astype(np.float64)).max(2) > 1 - 1e-9
    upright = np.abs(normal[:, 2]) < UPRIGHT
    on_rim &= ~upright[:, None]
    thick = np.maximum(0.1 * np.sqrt(area) * 0.5**n, 1e-4 * size)
    middles = np.einsum("pw,fwx->fpx", split.mean(1), corners - (thick[:, None] * normal)[:, None])
    fine = _layer(middles, rotation, long * 0.5**n, short * 0.5**n, thick, np.where(on_rim, GAMMA_RIM, GAMMA), colour, OPACITY)
    if n == 0:
        return fine
    # At the silhouette only where the surface turns away inside the triangle: wide splats of flat pieces would stick out.
    touching = rim[faces].sum(1)
    keep = (touching == 0) | (touching < 3) & (np.abs(normal[:, 2]) < STEEP)
    if not keep.any():
        return fine
    thick = np.maximum(0.1 * np.sqrt(area), 1e-4 * size)
    middles = corners.mean(1) - (DEPTH_UNDER * np.sqrt(area))[:, None] * normal
    under = _layer(
        middles[keep, None],
        rotation[keep],
        long[keep],
        short[keep],
        thick[keep],
        np.full((int(keep.sum()), 1), GAMMA_UNDER),
        colour[keep].mean(1, keepdims=True),
        OPACITY_UNDER,
    )
    return Splats(**{name: np.concatenate([value, getattr(under, name)]) for name, value in vars(fine).items()})


def _principal(edges: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each triangle's own frame as a quaternion (F, 4), and its standard deviations along the first two axes.

    The in-plane second moments of a uniform triangle are (e0 e0' + e1 e1' + e2 e2') / 36; their axes in closed form.
    """
    first = edges[:, 0] / np.maximum(np.linalg.norm(edges[:, 0], axis=1), 1e-30)[:, None]
    second = np.cross(normal, first)
    flat = np.stack([np.einsum("fij,fj->fi", edges, first), np.einsum("fij,fj->fi", edges, second)], 2)
    moments = np.einsum("fia,fib->fab", flat, flat) / 36
    mean, half, mixed = (moments[:, 0, 0] + moments[:, 1, 1]) / 2, (moments[:, 0, 0] - moments[:, 1, 1]) / 2, moments[:, 0, 1]
    spread = np.hypot(half, mixed)
    angle = np.arctan2(mixed, half) / 2
    axis = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    rotation = rotation_quaternions(np.stack([axis, np.cross(normal, axis), normal], 2))
    long = np.sqrt(mean + spread)
    return rotation, long, np.maximum(np.sqrt(np.maximum(mean - spread, 0)), 0.05 * long)


def _mean_colours(split: np.ndarray, uvs: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """The texture's mean over each piece, from its centroid and mid-edges: float32 (F, pieces, 3), 0..1."""
    taps = np.concatenate([split.mean(1)[:, None], (split + np.roll(split, 1, 1)) / 2], 1)
    at = np.einsum("ptw,fwu->fptu", taps.astype(np.float32), uvs.astype(np.float32))
    height, width = texture.shape[:2]
    column = np.clip((at[..., 0] * width).astype(np.int32), 0, width - 1)
    row = np.clip((at[..., 1] * height).astype(np.int32), 0, height - 1)
    return texture[row, column].mean(2, dtype=np.float32) / np.float32(255)


def _layer(
    middles: np.ndarray, rotation: np.ndarray, long: np.ndarray, short: np.ndarray, thick: np.ndarray, gamma: np.ndarray, colour: np.ndarray,
    opacity: float,
) -> Splats:  # fmt: skip
    """middles (F, P, 3), gamma (F, P), colour (F, P, 3) of the pieces; the rest is one for each face."""
    faces, count = gamma.shape
    scales = np.empty((faces, count, 3), np.float32)
    scales[..., 0], scales[..., 1], scales[..., 2] = gamma * long[:, None], gamma * short[:, None], thick[:, None]
    total = faces * count
    return Splats(
        positions=middles.reshape(total, 3).astype(np.float32),
        scales=scales.reshape(total, 3),
        rotations=np.repeat(rotation.astype(np.float32), count, 0),
        opacities=np.full(total, opacity, np.float32),
        sh=((colour.reshape(total, 1, 3) - np.float32(0.5)) / np.float32(SH_C0)).astype(np.float32),
    )
