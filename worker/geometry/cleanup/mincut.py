"""Inner faces cut off the outer ones by a minimum cut over the faces (spec: postprocess.md 2.3).

What is never seen (the wall of a hollow, the back of a pocket) is the source, what is seen often is the sink, and the cut runs where the
seam between the two is shortest: through the neck of a pocket. The hole that is left must be small, or the part stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from .topology import Array, Edges, connect, edges, face_components, face_links

SCALE = 1_000_000  # whole capacities for each unit of length
SEEN_LEAST, SEEN_MOST = 0.25, 0.5  # a face is outer above its component's upper quartile, kept within these
MEDIAN_LIMIT = 0.25  # a part that is seen more than this isn't inside


@dataclass(frozen=True)
class Part:
    """A connected part of the candidates. median: the lower one of its faces' visibility. loop_areas, loop_lengths: of its new boundary loops."""

    faces: Array
    median: float
    loop_areas: Array
    loop_lengths: Array
    accepted: bool


@dataclass(frozen=True)
class Cut:
    """inner, outer, candidate, removed: bool (F,). component int64 (F,): each candidate's part, -1 elsewhere. flow: the seam's length."""

    inner: Array
    outer: Array
    candidate: Array
    component: Array
    flow: float
    parts: tuple[Part, ...]
    removed: Array


def cut_inner(vertices: Array, faces: Array, visibility: Array, max_hole: float = 0.04) -> Cut:
    """Which faces to remove. visibility float (F,): the share of all views in which each is seen; max_hole: the largest area of a hole that
    may be left.

    Nothing is removed where every face is seen in some view.
    """
    found = edges(faces)
    outer, inner = outer_faces(faces, visibility, found), visibility == 0
    nothing = np.zeros(len(faces), bool)
    if not inner.any():
        return Cut(inner, outer, nothing, np.full(len(faces), -1), 0.0, (), nothing)
    candidate, flow = minimum_cut(vertices, found, inner, outer)
    rows = np.flatnonzero(candidate)
    count, label = face_components(faces[rows])
    component = np.full(len(faces), -1)
    component[rows] = label
    parts = _judged(vertices, faces, found, visibility, component, count, max_hole)
    removed = nothing.copy()
    for part in parts:
        removed[part.faces] = part.accepted
    return Cut(inner, outer, candidate, component, flow, tuple(parts), removed)


def outer_faces(faces: Array, visibility: Array, found: Edges | None = None) -> Array:
    """bool (F,): faces seen more often than `min(max(q75, 0.25), 0.5)`, q75 the upper quartile (linear interpolation) of their component.
    found: the faces' edges, where they are known."""
    count, label = connect(face_links(edges(faces) if found is None else found), len(faces))
    order = np.lexsort((visibility, label))
    size = np.bincount(label, minlength=count)
    begin, seen = np.cumsum(size) - size, visibility.astype(np.float64)[order]
    at = 0.75 * (size - 1)
    low = np.floor(at).astype(np.int64)
    below, above = seen[begin + low], seen[begin + np.minimum(low + 1, size - 1)]
    quartile = below + (above - below) * (at - low)
    return visibility > np.clip(quartile, SEEN_LEAST, SEEN_MOST)[label].astype(visibility.dtype)


def minimum_cut(vertices: Array, found: Edges, inner: Array, outer: Array) -> tuple[Array, float]:
    """-> the faces on the source's side, bool (F,), the fewest where several cuts are minimal; the cut's weight.

    Nodes are faces; an edge of exactly two faces joins them with its length as capacity; the source is joined to every inner face, the sink
    to every outer one, with 1. A face whose own edges together weigh less than its link to source or sink stands on that side in every
    minimal cut, so it is merged with it beforehand: only the faces between inner and outer ones are left for the flow.
    """
    pair = found.begin[found.degree == 2]
    one, two = found.order[pair] // 3, found.order[pair + 1] // 3
    length = np.linalg.norm(np.diff(vertices.astype(np.float64)[found.ends[found.degree == 2]], axis=1)[:, 0], axis=1)
    count = len(inner)
    weight = np.bincount(np.concatenate([one, two]), np.concatenate([length, length]), minlength=count)
    light = weight < 0.99
    source, sink = count, count + 1
    node = np.arange(count)
    node[inner & light], node[outer & light] = source, sink
    linked, drained = np.flatnonzero(inner & ~light), np.flatnonzero(outer & ~light)
    a = np.concatenate([node[one], np.full(len(linked), source), drained])
    b = np.concatenate([node[two], linked, np.full(len(drained), sink)])
    weights = np.concatenate([length, np.ones(len(linked) + len(drained))])
    side, flow = _source_side(a, b, np.rint(weights * SCALE).astype(np.int64), count + 2, source, sink)
    return side[node], flow / SCALE


def _source_side(a: Array, b: Array, capacity: Array, count: int, source: int, sink: int) -> tuple[Array, int]:
    """An undirected graph -> what the source still reaches once the flow is at its most, bool (count,), and that flow."""
    _, piece = connect(np.stack([a, b], 1), count)
    both = (piece[a] == piece[source]) & (piece[a] == piece[sink]) & (a != b)
    side = piece == piece[source]
    if not both.any():
        return side, 0
    nodes, short = np.unique(np.concatenate([[source, sink], a[both], b[both]]), return_inverse=True)
    start, end = short[2:].reshape(2, -1)
    ends, value = np.concatenate([[start, end], [end, start]], axis=1), np.tile(capacity[both], 2)
    graph = coo_matrix((value, tuple(ends)), shape=(len(nodes), len(nodes))).tocsr()
    graph.data = np.minimum(graph.data, 2**31 - 1)  # SciPy's flow has 32 bits; a seam is never 2147 units long
    graph = csr_matrix(graph, dtype=np.int32)
    flow = maximum_flow(graph, int(short[0]), int(short[1]))
    rest = graph - flow.flow
    rest.data = (rest.data > 0).astype(np.int8)
    rest.eliminate_zeros()
    reached = breadth_first_order(rest, int(short[0]), return_predecessors=False)
    side[nodes] = False
    side[nodes[reached]] = True
    return side, int(flow.flow_value)


def _judged(
    vertices: Array, faces: Array, found: Edges, visibility: Array, component: Array, count: int, max_hole: float
) -> list[Part]:  # fmt: skip
    """The parts 0..count-1, each with its median, its new boundary loops and the verdict."""
    loops = _new_loops(vertices, faces, found, component)
    parts = []
    order = np.argsort(component, kind="stable")
    begin = np.searchsorted(component[order], np.arange(count + 1))
    for number in range(count):
        rows = order[begin[number] : begin[number + 1]]
        median = float(np.sort(visibility[rows])[(len(rows) - 1) // 2])
        areas, lengths = (values[loops.part == number] for values in (loops.area, loops.length))
        parts.append(Part(rows, median, areas, lengths, median <= MEDIAN_LIMIT and bool((areas <= max_hole).all())))
    return parts


@dataclass(frozen=True)
class _Loops:
    part: Array  # int64 (L,)
    area: Array  # float64 (L,)
    length: Array


def _new_loops(vertices: Array, faces: Array, found: Edges, component: Array) -> _Loops:
    """The loops of edges that removing each part would open: on it once, and no boundary before. Edges of one part that share a vertex are
    one loop.
    """
    rows = np.flatnonzero(component >= 0)
    key = component[rows].repeat(3) * len(found.degree) + found.of_half.reshape(-1, 3)[rows].ravel()
    name, times = np.unique(key, return_counts=True)
    part, edge = np.divmod(name[times == 1], len(found.degree))
    new = found.degree[edge] != 1
    part, edge = part[new], edge[new]
    if len(edge) == 0:
        return _Loops(*(np.zeros(0, kind) for kind in (np.int64, np.float64, np.float64)))
    place, ends = np.unique(part[:, None] * len(vertices) + found.ends[edge], return_inverse=True)
    _, label = connect(ends.reshape(-1, 2), len(place))
    _, loop = np.unique(label[ends.reshape(-1, 2)[:, 0]], return_inverse=True)
    v0, v1 = vertices.astype(np.float64)[found.ends[edge]].transpose(1, 0, 2)
    size = np.bincount(loop)
    centre = np.stack([np.bincount(loop, (v0 + v1)[:, k] / 2) for k in range(3)], axis=1) / size[:, None]
    fan = np.linalg.norm(np.cross(v0 - centre[loop], v1 - centre[loop]), axis=1) / 2
    whose = np.zeros(len(size), np.int64)
    whose[loop] = part
    order = np.argsort(whose, kind="stable")
    return _Loops(whose[order], np.bincount(loop, fan)[order], np.bincount(loop, np.linalg.norm(v1 - v0, axis=1))[order])
