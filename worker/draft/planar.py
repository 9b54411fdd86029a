"""The planar mesh: marching squares over the sampled field (spec draft_engine.md 2.2).

Every triangle has a grid node among its corners, so no edge but the contour's own joins two contour vertices: after mirroring, each
edge has exactly two faces. (The spec's chord fix splits such edges; fanning pentagons from a crossing leaves none to split.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Corners of a cell 0..3: top left, top right, bottom right, bottom left. Crossings 4..7: top, right, bottom, left.
CLAMP = (0.06, 0.94)  # where on its grid edge a crossing may lie
SMALLEST = 0.01  # cells squared: triangles must keep this area, or half of what they had, when nodes move


@dataclass(frozen=True)
class Planar:
    """A triangulated region; counter-clockwise as seen on the screen.

    points: float64 (V, 2), x right, y down; the interior ones first. triangles: int64 (T, 3). interior: how many points are interior.
    following: int64 (V - interior,): for each contour point the next one along its loop, the region on the left.
    """

    points: np.ndarray
    triangles: np.ndarray
    interior: int
    following: np.ndarray


def marching_squares(field: np.ndarray, *, smooth: bool = False) -> Planar:
    """Triangulate where `field`, float (rows, columns) sampled at grid nodes, is positive; its border must be negative.

    Positions are in cells. Two diagonal corners inside stay apart, so each contour vertex has one contour edge in and one out.
    smooth: one Taubin pass along the contour, each vertex staying on its grid edge.
    """
    inside = field > 0
    rows, columns = field.shape
    nodes = np.full(field.shape, -1, np.int64)
    interior = int(inside.sum())
    nodes[inside] = np.arange(interior)

    across = inside[:, 1:] != inside[:, :-1]  # crossings on horizontal grid edges
    down = inside[1:] != inside[:-1]  # and on vertical ones
    count = int(across.sum())
    h_ids = np.full(across.shape, -1, np.int64)
    h_ids[across] = interior + np.arange(count)
    v_ids = np.full(down.shape, -1, np.int64)
    v_ids[down] = interior + count + np.arange(int(down.sum()))

    corners = [inside[:-1, :-1], inside[:-1, 1:], inside[1:, 1:], inside[1:, :-1]]
    code = sum((c.astype(np.uint8) << i for i, c in enumerate(corners)), np.zeros((rows - 1, columns - 1), np.uint8))
    local = np.stack(
        [nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1], h_ids[:-1], v_ids[:, 1:], h_ids[1:], v_ids[:, :-1]], axis=-1
    )
    parity = np.add.outer(np.arange(rows - 1), np.arange(columns - 1)) % 2

    triangles, links = [], []
    for case in range(1, 16):
        for odd in (0, 1) if case == 15 else (None,):
            where = code == case
            if odd is not None:
                where &= parity == odd
            cells = local[where]
            if len(cells):
                faces, edges = _table(case, odd or 0)
                triangles.append(cells[:, faces].reshape(-1, 3))
                links.append(cells[:, edges].reshape(-1, 2))
    faces = np.concatenate(triangles)[:, ::-1]  # the tables run clockwise on the screen
    link = np.concatenate(links)

    hr, hc = np.nonzero(across)
    vr, vc = np.nonzero(down)
    low = np.concatenate([field[hr, hc], field[vr, vc]])
    high = np.concatenate([field[hr, hc + 1], field[vr + 1, vc]])
    base = np.concatenate([np.stack([hc, hr], 1), np.stack([vc, vr], 1)]).astype(float)
    axis = np.concatenate([np.zeros(len(hr), np.int64), np.ones(len(vr), np.int64)])
    following = np.empty(len(base), np.int64)
    following[link[:, 1] - interior] = link[:, 0]
    along = np.clip(low / (low - high), *CLAMP)
    if smooth:
        along = _taubin(base, axis, along, following - interior)

    contour = _on_edges(base, axis, along)
    node_rows, node_columns = np.nonzero(inside)
    points = np.concatenate([np.stack([node_columns, node_rows], 1).astype(float), contour])
    return Planar(_relax(points, faces, interior), faces, interior, following)


def _relax(points: np.ndarray, triangles: np.ndarray, interior: int, passes: int = 3) -> np.ndarray:
    """Move the nodes beside the contour towards the middle of their neighbours: no slivers, though crossings lie where the outline is.

    (Clamping crossings to 0.15..0.85 instead, as the spec does, leaves bumps in the silhouette.) A node whose triangles would get too small stays.
    """
    count = len(points)
    near = np.zeros(count, bool)
    near[triangles[(triangles >= interior).any(1)].ravel()] = True
    near[interior:] = False
    touching = triangles[near[triangles].any(1)]
    start, end = touching.ravel(), np.roll(touching, -1, 1).ravel()
    around = np.bincount(start, minlength=count) + np.bincount(end, minlength=count)
    before = _areas(points, touching)
    enough = np.minimum(before / 2, SMALLEST)
    out = points
    for _ in range(passes):
        middle = np.stack(
            [np.bincount(start, out[end, i], minlength=count) + np.bincount(end, out[start, i], minlength=count) for i in (0, 1)], 1
        )
        moved = out.copy()
        moved[near] += 0.6 * (middle[near] / around[near, None] - out[near])
        for _ in range(8):
            bad = _areas(moved, touching) < enough
            if not bad.any():
                break
            back = touching[bad].ravel()
            moved[back] = out[back]
        else:
            break
        out = moved
    return out


def _areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Areas (T,), positive for triangles that are counter-clockwise on the screen (y down)."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    return ((c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1]) - (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1])) / 2


def _table(case: int, odd: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (n, 3) and contour edges (m, 2) of one cell, clockwise on the screen, in local numbers."""
    if case in (5, 10):  # two diagonal corners: apart
        first = [(0, 4, 7), (2, 6, 5)] if case == 5 else [(1, 5, 4), (3, 7, 6)]
        return np.array(first), np.array([t[1:] for t in first])
    if case == 15:  # alternate diagonals, or all would lean one way
        return np.array([(0, 1, 2), (0, 2, 3)] if odd else [(0, 1, 3), (1, 2, 3)]), np.empty((0, 2), int)
    ring = []
    for corner in range(4):
        following = (corner + 1) % 4
        if case >> corner & 1:
            ring.append(corner)
        if (case >> corner & 1) != (case >> following & 1):
            ring.append(4 + corner)
    start = next(i for i, item in enumerate(ring) if item >= 4 and ring[(i + 1) % len(ring)] >= 4)
    ring = ring[start:] + ring[:start]  # begins with the cell's one contour edge
    fan = [(ring[0], ring[i], ring[i + 1]) for i in range(1, len(ring) - 1)]
    return np.array(fan), np.array([ring[:2]])


def _on_edges(base: np.ndarray, axis: np.ndarray, along: np.ndarray) -> np.ndarray:
    points = base.copy()
    points[np.arange(len(base)), axis] += along
    return points


def _taubin(base: np.ndarray, axis: np.ndarray, along: np.ndarray, following: np.ndarray) -> np.ndarray:
    """One pass (0.5, -0.53) of Taubin's smoothing along closed loops, projected onto the grid edges (so no triangle can turn over)."""
    previous = np.empty_like(following)
    previous[following] = np.arange(len(following))
    for weight in (0.5, -0.53):
        points = _on_edges(base, axis, along)
        pull = (points[previous] + points[following]) / 2 - points
        along = along + weight * pull[np.arange(len(base)), axis]
    return np.clip(along, *CLAMP)
