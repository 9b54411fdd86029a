"""Two sheets become a closed solid; or one box for each pixel (spec draft_engine.md 2.3 voxel, 2.5).

Both sheets are graphs over one planar mesh, positive and negative inside, so they meet at the contour alone: closed, oriented
and free of self-intersection by construction. Here x runs right, y *up*, z to the viewer; lengths are pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .planar import Planar

FRONT, BACK, WALL = 0, 1, 2
TEAR = 0.02  # pixels that two voxels meeting by an edge alone are kept apart


@dataclass(frozen=True)
class Solid:
    """A closed surface. positions: float64 (V, 3); faces: int64 (F, 3), counter-clockwise from outside; part: uint8 (F,), FRONT, BACK or
    WALL; rim: bool (V,), vertices on the silhouette as seen from the front."""

    positions: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    rim: np.ndarray

    def euler(self) -> int:
        """V - E + F of a closed triangle surface: 2 for each body, minus 2 for each hole through it."""
        return len(self.positions) - len(self.faces) // 2

    def is_closed(self) -> bool:
        """Whether every directed edge occurs once, and its reverse too."""
        edges = self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
        count = len(self.positions)
        forward = np.sort(edges[:, 0] * count + edges[:, 1])
        backward = np.sort(edges[:, 1] * count + edges[:, 0])
        return bool(np.array_equal(forward, backward) and (np.diff(forward) > 0).all())


def close(planar: Planar, points: np.ndarray, front: np.ndarray, back: np.ndarray, *, wall: bool) -> Solid:
    """points: (V, 2), y down; front, back: heights (V,) >= 0, zero on the contour unless `wall`, which puts a band of faces between them."""
    count, inner = len(points), planar.interior
    flat = points * (1, -1)
    sheet = np.column_stack([flat, front])
    if not wall:
        under = np.arange(count)
        under[:inner] += count
        positions = np.concatenate([sheet, np.column_stack([flat[:inner], -back[:inner]])])
        faces = np.concatenate([planar.triangles, under[planar.triangles][:, ::-1]])
        part = np.repeat(np.array([FRONT, BACK], np.uint8), len(planar.triangles))
        rim = np.zeros(len(positions), bool)
        rim[inner:count] = True
        return Solid(positions, faces, part, rim)

    middle = np.column_stack([flat[inner:], (front[inner:] - back[inner:]) / 2])
    positions = np.concatenate([sheet, np.column_stack([flat, -back]), middle])
    this, that = np.arange(inner, count), planar.following
    bands = []
    for upper, lower in ((0, 2 * count - inner), (2 * count - inner, count)):  # front to middle, middle to back
        bands += [np.stack([this + upper, this + lower, that + lower], 1), np.stack([this + upper, that + lower, that + upper], 1)]
    faces = np.concatenate([planar.triangles, planar.triangles[:, ::-1] + count, *bands])
    part = np.repeat(np.array([FRONT, BACK, WALL], np.uint8), [len(planar.triangles), len(planar.triangles), 4 * len(this)])
    rim = np.zeros(len(positions), bool)
    rim[inner:count] = rim[count + inner :] = True
    return Solid(positions, faces, part, rim)


def voxels(mask: np.ndarray, depth: float, back_depth: float = 1.0) -> tuple[Solid, np.ndarray]:
    """One box for each True pixel of mask (h, w), from z = depth/2 to -back_depth * depth/2; and each face's pixel, int64 (F,), flat index.

    Faces come in pairs that make up quads: (0,1,2) and (0,2,3) of the same four corners.
    """
    width = mask.shape[1]
    padded = np.pad(mask, 1)
    # Four corners to a pixel, then those of neighbouring pixels are one, where the pixels meet by a side. Where two pixels meet
    # only by their corners they keep one vertex each, or four faces would share an edge.
    around = np.stack([padded[:-1, :-1], padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1]])  # at each lattice point: TL, TR, BR, BL pixel
    used = around.any(0)
    torn = (around[0] & around[2] & ~around[1] & ~around[3]) | (around[1] & around[3] & ~around[0] & ~around[2])
    first = np.cumsum(used).reshape(used.shape) - 1
    lattice = int(used.sum())
    second = lattice + np.cumsum(torn).reshape(torn.shape) - 1
    total = lattice + int(torn.sum())
    rows, columns = np.nonzero(mask)

    def corner(down: int, right: int) -> np.ndarray:
        """Vertex of the pixels' corner; at a torn point the lower pixel takes the second vertex."""
        r, c = rows + down, columns + right
        return np.where(torn[r, c] & (down == 0), second[r, c], first[r, c])

    tl, tr, br, bl = corner(0, 0), corner(0, 1), corner(1, 1), corner(1, 0)
    pixel = rows * width + columns
    quads = [np.stack([bl, br, tr, tl], 1), np.stack([tl, tr, br, bl], 1) + total]
    owners, parts = [pixel, pixel], [FRONT, BACK]
    for a, b, empty in (
        (tr, tl, ~padded[rows, columns + 1]),
        (bl, br, ~padded[rows + 2, columns + 1]),
        (tl, bl, ~padded[rows + 1, columns]),
        (br, tr, ~padded[rows + 1, columns + 2]),
    ):  # above, below, left, right: seen from outside, a is left and b right at the front edge
        quads.append(np.stack([a, b, b + total, a + total], 1)[empty][:, ::-1])
        owners.append(pixel[empty])
        parts.append(WALL)
    quad = np.concatenate(quads)
    faces = quad[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    place = np.empty((total, 2))
    for vertices, down, right in ((tl, 0, 0), (tr, 0, 1), (br, 1, 1), (bl, 1, 0)):
        place[vertices] = np.stack([columns + right, -(rows + down)], 1)
        # Both vertices of a torn point step back a little, so that they stay two when a reader welds equal positions.
        apart = torn[rows + down, columns + right]
        place[vertices[apart]] += np.array([-TEAR if right else TEAR, TEAR if down else -TEAR])
    positions = np.concatenate([np.column_stack([place, np.full(total, z)]) for z in (depth / 2, -back_depth * depth / 2)])
    part = np.repeat(np.array(parts, np.uint8), [len(q) for q in quads])
    outline = np.tile(~around.all(0)[used], 1)
    rim = np.concatenate([outline, np.ones(total - lattice, bool)])
    return Solid(positions, faces, np.repeat(part, 2), np.tile(rim, 2)), np.repeat(np.concatenate(owners), 2)
