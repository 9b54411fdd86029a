"""Small holes closed: each boundary loop gets a patch, which is refined to the density around it (spec: postprocess.md 2.4).

The patch clips the ear with the shortest diagonal first; refinement splits its triangles at their centroids where they are larger than the
surface around the hole, and swaps edges towards Delaunay's, after Liepa, "Filling Holes in Meshes", 2003. New vertices are then relaxed
once (uniform Laplacian).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .topology import Array, boundary_loops, edges

DENSITY = 2**0.5  # Liepa's alpha
SWAPS = 20  # rounds of edge swaps after each round of splits; it takes two or three
_Place = tuple[float, float, float]


@dataclass(frozen=True)
class Filled:
    """vertices, faces: with patches behind the old ones; patch int64 (P,): each new face's loop. closed, left: edges of each loop that was
    closed or left open.
    """

    vertices: Array
    faces: Array
    patch: Array
    closed: tuple[int, ...]
    left: tuple[int, ...]


def fill_holes(vertices: Array, faces: Array, max_edges: int = 55, refine: bool = True) -> Filled:
    """Close every boundary loop of at most `max_edges` edges. The mesh must be split (repair.split_crowded)."""
    loops = boundary_loops(faces)
    small = [loop for loop in loops if 3 <= len(loop) <= max_edges]
    left = tuple(len(loop) for loop in loops if not 3 <= len(loop) <= max_edges)
    if not small:
        return Filled(vertices, faces, np.zeros(0, np.int64), (), left)
    found = edges(faces)
    beside: dict[int, list[int]] = {}
    for a, b in found.ends[np.isin(found.ends, np.concatenate(small)).all(axis=1)].tolist():
        beside.setdefault(a, []).append(b)
    scale = _edge_scale(vertices, found.ends) if refine else None
    points, new, owner = [vertices], [faces], []
    count = len(vertices)
    for number, loop in enumerate(small):
        patch = clip_ears(vertices[loop].astype(np.float64), _inner_pairs(loop, beside))
        where, tris = vertices[loop].astype(np.float64), patch
        if scale is not None and len(loop) > 3:
            where, tris = refined(where, patch, scale[loop])
        renumber = np.concatenate([loop, count + np.arange(len(where) - len(loop))])
        new.append(renumber[tris])
        points.append(where[len(loop) :].astype(vertices.dtype))
        owner.append(np.full(len(tris), number))
        count += len(where) - len(loop)
    return Filled(np.concatenate(points), np.concatenate(new), np.concatenate(owner), tuple(len(loop) for loop in small), left)


def _inner_pairs(loop: Array, beside: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Places in the loop that the mesh joins already: a diagonal there would be an edge of four faces. beside: the larger ends of each vertex's edges."""
    place = {v: i for i, v in enumerate(loop.tolist())}
    near = [(i, place[b]) for a, i in place.items() for b in beside.get(a, ()) if b in place]
    return [(a, b) for a, b in near if (a - b) % len(loop) not in (1, len(loop) - 1)]


def _edge_scale(vertices: Array, ends: Array) -> Array:
    """float64 (V,): the mean length of the edges at each vertex."""
    length = np.linalg.norm(np.diff(vertices.astype(np.float64)[ends], axis=1)[:, 0], axis=1).repeat(2)
    count = np.bincount(ends.ravel(), minlength=len(vertices))
    return np.bincount(ends.ravel(), length, minlength=len(vertices)) / np.maximum(count, 1)


def clip_ears(points: Array, taken: list[tuple[int, int]] | None = None) -> Array:
    """A closed polygon float64 (n, 3) -> n - 2 triangles int64 that wind with it, the ear with the shortest diagonal first.

    taken: pairs of places that no diagonal may join, as long as there is another.
    """
    if len(points) == 3:
        return np.array([[0, 1, 2]], np.int64)
    forbidden = {frozenset(pair) for pair in taken or ()}
    ring, triangles = list(range(len(points))), []
    gap = np.linalg.norm(points[:, None] - points[None], axis=2)
    for a, b in forbidden:
        gap[a, b] = gap[b, a] = np.inf
    while len(ring) > 3:
        before, after = np.roll(ring, 1), np.roll(ring, -1)
        at = int(np.argmin(gap[before, after]))
        triangles.append((int(before[at]), ring[at], int(after[at])))
        del ring[at]
    triangles.append((ring[0], ring[1], ring[2]))
    return np.array(triangles, np.int64)


def refined(points: Array, triangles: Array, around: Array) -> tuple[Array, Array]:
    """A patch whose first n points are its rim -> (points, triangles) with new points inside, as dense as the surface around.

    around float64 (n,): the mean edge length at each point of the rim. The rim's edges stay.
    """
    rim = len(points)
    places: list[_Place] = [(x, y, z) for x, y, z in points.tolist()]
    scale: list[float] = around.tolist()
    tris = [tuple(int(v) for v in t) for t in triangles]
    _swap(places, tris)
    for _ in range(20):  # it takes about log2(hole / edge length)
        made = []
        for tri in tris:
            (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (places[v] for v in tri)
            centre = (ax + bx + cx) / 3, (ay + by + cy) / 3, (az + bz + cz) / 3
            size = (scale[tri[0]] + scale[tri[1]] + scale[tri[2]]) / 3
            reach = [DENSITY * math.dist(centre, places[v]) for v in tri]
            if all(r > size and r > scale[v] for r, v in zip(reach, tri)):
                new = len(places)
                places.append(centre)
                scale.append(size)
                made += [(tri[0], tri[1], new), (tri[1], tri[2], new), (tri[2], tri[0], new)]
            else:
                made.append(tri)
        if len(made) == len(tris):
            break
        tris = made
        _swap(places, tris)
    where, faces = np.array(places), np.array(tris, np.int64)
    return _relaxed(where, faces, rim), faces


def _swap(points: Sequence[Iterable[float]], tris: list[tuple[int, ...]]) -> None:
    """Swap inner edges, in place, whose two opposite angles add up to more than a half turn, unless the other diagonal is there already."""
    for _ in range(SWAPS):
        owner = {(t[i], t[(i + 1) % 3]): n for n, t in enumerate(tris) for i in range(3)}
        done: set[int] = set()
        for (a, b), n in list(owner.items()):
            m = owner.get((b, a))
            if m is None or n > m or n in done or m in done:
                continue
            c, d = (next(v for v in tris[t] if v not in (a, b)) for t in (n, m))
            if (c, d) in owner or (d, c) in owner or _angle(points, a, c, b) + _angle(points, a, d, b) <= np.pi + 1e-9:
                continue
            tris[n], tris[m] = (c, a, d), (d, b, c)
            done |= {n, m}
        if not done:
            return


def _angle(points: Sequence[Iterable[float]], a: int, at: int, b: int) -> float:
    """The angle at `at` between a and b. In plain numbers: numpy takes twenty times as long for three."""
    (ax, ay, az), (x, y, z), (bx, by, bz) = points[a], points[at], points[b]
    ux, uy, uz, vx, vy, vz = ax - x, ay - y, az - z, bx - x, by - y, bz - z
    across = math.hypot(uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    return math.atan2(across, ux * vx + uy * vy + uz * vz)


def _relaxed(points: Array, faces: Array, rim: int) -> Array:
    """New points where each is the mean of its neighbours: the patch as a membrane over its rim."""
    inner = len(points) - rim
    if inner == 0:
        return points
    ends = edges(faces).ends
    laplacian = np.zeros((len(points), len(points)))
    laplacian[ends[:, 0], ends[:, 1]] = laplacian[ends[:, 1], ends[:, 0]] = -1
    np.fill_diagonal(laplacian, -laplacian.sum(axis=1))
    free = laplacian[rim:]
    return np.concatenate([points[:rim], np.linalg.solve(free[:, rim:], -free[:, :rim] @ points[:rim])])
