"""Who touches whom in a triangle mesh: edges, components, boundary loops, what is closed. Whole arrays at a time.

A mesh is two arrays here: vertices float (V, 3) and faces int64 (F, 3), counter-clockwise seen from outside. Half-edge 3 f + i runs from
corner i of face f to its next corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Array = np.ndarray


@dataclass(frozen=True)
class Edges:
    """The E different edges. ends int64 (E, 2), the smaller vertex first; degree int64 (E,): how many half-edges lie on each.

    order int64 (3 F,): half-edges, those of one edge beside each other; begin int64 (E,): where each edge's begin in it.
    of_half int64 (3 F,): each half-edge's edge; forward bool (3 F,): whether it runs from the smaller vertex to the larger.
    """

    ends: Array
    degree: Array
    order: Array
    begin: Array
    of_half: Array
    forward: Array


def edges(faces: Array) -> Edges:
    """Every edge of the faces int64 (F, 3)."""
    faces = faces.astype(np.int64, copy=False)  # products of vertex numbers need them
    start, end = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    key = low * (int(faces.max(initial=0)) + 1) + high
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    degree = np.diff(first, append=len(key))
    of_half = np.empty(len(key), np.int64)
    of_half[order] = np.repeat(np.arange(len(first)), degree)
    some = order[first]
    return Edges(np.stack([low[some], high[some]], axis=1), degree, order, first, of_half, start < end)


def face_links(found: Edges) -> Array:
    """int64 (L, 2): faces that share an edge. The faces of an edge of degree n are linked in a chain of n - 1."""
    face = found.order // 3
    within = np.ones(len(face), bool)
    within[found.begin] = False
    return np.stack([face[np.flatnonzero(within) - 1], face[within]], axis=1)


def connect(links: Array, count: int) -> tuple[int, Array]:
    """Nodes 0..count-1 and links int (L, 2) between them -> how many components, each node's component int64 (count,)."""
    graph = coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(count, count))
    number, label = connected_components(graph, directed=False)
    return int(number), label.astype(np.int64)


def face_components(faces: Array) -> tuple[int, Array]:
    """Faces connected through shared edges -> how many components, each face's component int64 (F,)."""
    return connect(face_links(edges(faces)), len(faces))


def compact(vertices: Array, faces: Array) -> tuple[Array, Array, Array]:
    """Without vertices that no face uses -> vertices, faces, the old number of each vertex that is left int64."""
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    kept = np.flatnonzero(used)
    renumber = np.cumsum(used, dtype=np.int64) - 1
    return vertices[kept], renumber[faces].reshape(-1, 3), kept


def area_vectors(vertices: Array, faces: Array) -> Array:
    """float64 (F, 3): each face's normal, as long as its area."""
    columns = np.ascontiguousarray(vertices.T, np.float64)  # axis by axis: twice as fast as row by row
    a, b, c = np.ascontiguousarray(faces.T)
    (ux, vx), (uy, vy), (uz, vz) = ((x[b] - (start := x[a]), x[c] - start) for x in columns)
    return 0.5 * np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], axis=1)


def signed_volumes(vertices: Array, faces: Array, label: Array | None = None, count: int = 1, areas: Array | None = None) -> Array:
    """float64 (count,): the volume that each component encloses, negative where it faces inwards. Only means something for closed ones.

    areas: `area_vectors`, where they are known.
    """
    middle = vertices.mean(axis=0, dtype=np.float64) if len(vertices) else np.zeros(3)
    areas = area_vectors(vertices, faces) if areas is None else areas
    part = np.einsum("ij,ij->i", (vertices - middle)[faces[:, 0]], areas) / 3
    return np.array([part.sum()]) if label is None else np.bincount(label, part, minlength=count)


@dataclass(frozen=True)
class Soundness:
    """What a mesh is, topologically, after welding equal positions.

    boundary: edges with one face. crowded: edges with more than two. clashing: edges whose two faces wind differently. bodies: components.
    euler: V - E + F over used vertices; genus is only known where the mesh is closed.
    """

    boundary: int
    crowded: int
    clashing: int
    bodies: int
    euler: int

    @property
    def closed(self) -> bool:
        """Every edge has exactly two faces, and they agree on which side is out."""
        return self.boundary == self.crowded == self.clashing == 0

    @property
    def genus(self) -> int | None:
        """Handles of all bodies together, where that has a meaning."""
        return self.bodies - self.euler // 2 if self.closed and self.bodies else None


def soundness(vertices: Array, faces: Array) -> Soundness:
    """What is true of the mesh, equal positions counting as one."""
    _, place = weld(vertices)
    faces = place[faces].reshape(-1, 3)
    if len(faces) == 0:
        return Soundness(0, 0, 0, 0, 0)
    found = edges(faces)
    forward = np.add.reduceat(found.forward[found.order].astype(np.int64), found.begin)
    bodies, _ = connect(face_links(found), len(faces))
    return Soundness(
        boundary=int((found.degree == 1).sum()),
        crowded=int((found.degree > 2).sum()),
        clashing=int(((found.degree == 2) & (forward != 1)).sum()),
        bodies=bodies,
        euler=len(np.unique(faces)) - len(found.degree) + len(faces),
    )


def weld(vertices: Array) -> tuple[Array, Array]:
    """Equal positions become one -> the row of each that is left int64 (W,), each vertex's place among them int64 (V,)."""
    if len(vertices) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    plain = np.ascontiguousarray(vertices, np.float32) + np.float32(0)  # no minus zero
    x, y, z = plain.view(np.uint32).astype(np.uint64).T
    if not _twice(_hash(x << np.uint64(32) | y) + _hash(~z)):
        return np.arange(len(vertices), dtype=np.int64), np.arange(len(vertices), dtype=np.int64)
    order = np.lexsort(plain.T)
    new = np.ones(len(order), bool)
    new[1:] = (plain[order[1:]] != plain[order[:-1]]).any(axis=1)
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(new) - 1
    return order[new], place


def passes(faces: Array) -> Array:
    """uint64 (F,): numbers whose sum over a set of faces is 0 if these pass every edge as often forth as back: closed, wound consistently,
    even where sheets touch.

    Each half-edge counts by an antisymmetric function of its ends' hashes, so that forth and back cancel: no sort. Any other set passes
    with a chance of about 2^-63.
    """
    a, b, c = np.ascontiguousarray(faces.T)
    ids = np.arange(int(faces.max(initial=0)) + 1, dtype=np.uint64)
    one, two = _hash(ids), _hash(~ids)
    (ua, ub, uc), (va, vb, vc) = (one[a], one[b], one[c]), (two[a], two[b], two[c])
    total: Array = ua * (vb - vc) + ub * (vc - va) + uc * (va - vb)
    return total


def balanced(faces: Array) -> bool:
    """Whether the faces are closed in the sense of `passes`."""
    return int(passes(faces).sum(dtype=np.uint64)) == 0


def repeated(faces: Array) -> bool:
    """Whether two faces may have the same three vertices (surely so, but for a chance of 2^-24)."""
    ids = _hash(np.arange(int(faces.max(initial=0)) + 1, dtype=np.uint64))
    return _twice(ids[faces[:, 0]] + ids[faces[:, 1]] + ids[faces[:, 2]])


def _hash(words: Array) -> Array:
    """uint64 -> uint64, well mixed (the finaliser of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _twice(words: Array) -> bool:
    ordered = np.sort(words)
    return bool((ordered[1:] == ordered[:-1]).any())


def boundary_loops(faces: Array) -> list[Array]:
    """The loops of boundary half-edges as vertices, each int64 (n,) in the order in which a patch that closes it must run.

    The mesh must be split (repair.split_crowded): then exactly one boundary half-edge leaves every boundary vertex, unless faces beside it
    wind unlike. A chain that ends at such a vertex is no loop and is left out.
    """
    found = edges(faces)
    half = found.order[found.begin[found.degree == 1]]
    if len(half) == 0:
        return []
    start, end = faces.ravel()[half], faces[:, [1, 2, 0]].ravel()[half]
    before = dict(zip(end.tolist(), start.tolist()))  # a patch runs against the faces beside it
    loops = []
    while before:
        first, at = before.popitem()
        loop = [first]
        while at != first and at is not None:
            loop.append(at)
            at = before.pop(at, None)
        if at is not None:
            loops.append(np.array(loop, np.int64))
    return loops
