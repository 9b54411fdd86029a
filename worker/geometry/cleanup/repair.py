"""Faults of a triangle mesh, put right: unfit faces, mixed winding, edges and vertices where more than one sheet of surface meets.

`split_crowded` is why a decimated mesh comes out closed: edge collapses (fast-simplification doesn't check the link condition) turn a
closed surface into one whose sheets touch along edges, never into an open one. Cut apart along those edges, it is a closed 2-manifold again
(after Gueziec et al., "Cutting and Stitching", 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from .components import Parts
from .tensors import placed
from .topology import Array, Edges, area_vectors, connect, edges, repeated

NUDGE = 0.01  # how far copies of a split vertex move into their own sheet, as a share of the way to its neighbours


@dataclass(frozen=True)
class Dropped:
    """Faces that went, by reason."""

    unfinite: int = 0
    degenerate: int = 0
    duplicate: int = 0

    def __add__(self, other: Dropped) -> Dropped:
        return Dropped(self.unfinite + other.unfinite, self.degenerate + other.degenerate, self.duplicate + other.duplicate)


def fit_faces(vertices: Array, faces: Array) -> tuple[Array, Dropped]:
    """The faces int64 (F, 3) without those that use a position that isn't finite, that use a vertex twice, or that lie on each other.

    Of faces on the same three vertices one stays if they wind alike; a pair that winds oppositely encloses nothing and goes altogether,
    which keeps a closed mesh closed. A face without area but with three vertices stays: its neighbours need it.
    """
    good = np.isfinite(vertices).all(axis=1)
    finite = np.ones(len(faces), bool) if good.all() else good[faces].all(axis=1)
    a, b, c = faces.T
    proper = (a != b) & (b != c) & (c != a)
    good_faces = finite & proper
    kept = faces if good_faces.all() else faces[good_faces]
    if not repeated(kept):
        return kept, Dropped(int((~finite).sum()), int((finite & ~proper).sum()), 0)
    single = _singles(kept)
    return kept[single], Dropped(int((~finite).sum()), int((finite & ~proper).sum()), int((~single).sum()))


def _singles(faces: Array) -> Array:
    """bool (F,): the faces that stay where several have the same vertices."""
    if len(faces) == 0:
        return np.ones(0, bool)
    span = int(faces.max()) + 1
    low, high = faces.min(axis=1), faces.max(axis=1)
    middle = faces.sum(axis=1) - low - high
    edge, apex = low * span + middle, high
    order = np.argsort(edge, kind="stable")
    alone = np.diff(edge[order], prepend=-1) != 0
    alone[:-1] &= alone[1:]
    crowd = order[~alone]  # the few that share their lower edge as well
    crowd = crowd[np.lexsort((apex[crowd], edge[crowd]))]
    stays = np.ones(len(faces), bool)
    if len(crowd) == 0:
        return stays
    first = np.flatnonzero((np.diff(edge[crowd], prepend=-1) != 0) | (np.diff(apex[crowd], prepend=-1) != 0))
    size = np.diff(first, append=len(crowd))
    turned = faces[crowd]
    turned = (turned[:, 0] < turned[:, 1]).astype(np.int64) + (turned[:, 1] < turned[:, 2]) + (turned[:, 2] < turned[:, 0])  # 2: even
    net = np.add.reduceat(np.where(turned == 2, 1, -1), first)
    group = np.repeat(np.arange(len(first)), size)
    agrees = np.where(turned == 2, 1, -1) == np.sign(net)[group]
    rank = np.cumsum(agrees) - (np.cumsum(agrees) - agrees)[first][group]  # 1 for the first of its group that agrees
    stays[crowd] = (size == 1)[group] | (agrees & (rank == 1))
    return stays


def wind_alike(faces: Array) -> tuple[Array, int]:
    """Turn faces so that neighbours across every edge of two faces agree -> faces, how many were turned.

    Each component keeps the winding of most of its faces. One that has no consistent winding (a Moebius strip) is left as it is and shows
    up in `soundness`.
    """
    found = edges(faces)
    pair = found.begin[found.degree == 2]
    one, two = found.order[pair], found.order[pair + 1]
    clash = found.forward[one] == found.forward[two]
    if not clash.any():
        return faces, 0
    count = len(faces)
    f, g = one // 3, two // 3
    straight, crossed = np.where(clash, g + count, g), np.where(clash, g, g + count)  # node f: face f as it is, node f + count: turned
    _, label = connect(np.concatenate([np.stack([f, straight], 1), np.stack([f + count, crossed], 1)]), 2 * count)
    kept, turned = label[:count], label[count:]
    _, sheet = np.unique(np.minimum(kept, turned), return_inverse=True)
    in_first = kept < turned  # of each component's two ways to wind, that with the smaller label
    balance = np.bincount(sheet, np.where(in_first, 1, -1))
    flip = (in_first == (balance[sheet] < 0)) & (kept != turned)
    faces = faces.copy()
    faces[flip] = faces[flip][:, ::-1]
    return faces, int(flip.sum())


def face_outwards(faces: Array | Tensor, parts: Parts, inwards: Array) -> tuple[Array | Tensor, Array]:
    """Turn closed components that face the wrong way inside out -> faces, which were turned bool (C,).

    inwards: bool (C,), components that bound a hollow: their volume must be negative, the others' positive. An open component stays as it
    is.
    """
    turn = ((parts.volume < 0) != inwards) & parts.closed & (parts.volume != 0)
    if not turn.any():
        return faces, turn
    if isinstance(faces, Tensor):
        return torch.where(placed(turn[parts.label], faces.device)[:, None], faces.flip(1), faces), turn
    return np.where(turn[parts.label][:, None], faces[:, ::-1], faces), turn


def split_crowded(vertices: Array, faces: Array) -> tuple[Array, Array, Array, int]:
    """Give every sheet of surface that meets others in an edge or a vertex vertices of its own.

    Faces across an edge stay together where they wind alike. Where more than two meet, those that have the solid between them do (bodies
    that touch come apart); if that leaves the edge as crowded, those with air between them (the two sides of a wall worn through do); if
    that doesn't help either, one pair gets a vertex in the middle of the edge. Copies of a vertex move apart by a hair, into their own
    sheet, so that welding equal positions doesn't undo it.
    -> vertices, faces, the old number of each vertex int64 (V',), how many vertices were added. A mesh that needs nothing comes back as it
    is.
    """
    if len(faces) == 0:
        return vertices, faces, np.arange(len(vertices)), 0
    found = edges(faces)
    crowded = np.flatnonzero(found.degree > 2).tolist()
    pairs = {edge: _wedges(vertices, faces, found, edge, air=False) for edge in crowded}
    number, name = _fans(faces, found, pairs)
    shared = [edge for edge in crowded if _meet_again(name, pairs[edge])]
    if shared:
        pairs |= {edge: _wedges(vertices, faces, found, edge, air=True) for edge in shared}
        number, name = _fans(faces, found, pairs)
    split = name.reshape(-1, 3)
    fans = np.bincount(number, minlength=len(vertices))
    moved = vertices
    if len(number) > len(vertices):
        moved = _moved_apart(vertices[number], split, fans[number] > 1)
    shared = [edge for edge in crowded if _meet_again(name, pairs[edge])]
    if not shared:
        same = len(number) == len(vertices)
        return moved, faces if same else split, number, len(number) - len(vertices)
    moved, split, between = _halved(moved, split, [pair for edge in shared for pair in pairs[edge][1:]])
    moved, split, again, _ = split_crowded(moved, split)
    old = np.concatenate([number, number[between]])[again]
    return moved, split, old, len(old) - len(vertices)


def _fans(faces: Array, found: Edges, pairs: dict[int, list[tuple[int, int]]]) -> tuple[Array, Array]:
    """-> the old vertex of every new one int64 (V',), the new vertex of every corner int64 (3 F,). The first fan of a vertex keeps its
    number.

    pairs: half-edges that belong together across each crowded edge.
    """
    two_faced = found.begin[found.degree == 2]
    one, two = found.order[two_faced], found.order[two_faced + 1]
    good = found.forward[one] != found.forward[two]
    more = np.array([p for some in pairs.values() for p in some], np.int64).reshape(-1, 2)
    one, two = np.concatenate([one[good], more[:, 0]]), np.concatenate([two[good], more[:, 1]])
    links = np.concatenate(
        [np.stack([one, _next(two)], 1), np.stack([_next(one), two], 1)]
    )  # across an edge, one's first corner is two's second
    count, label = connect(links, 3 * len(faces))
    vertex = np.zeros(count, np.int64)
    vertex[label] = faces.ravel()
    total = int(faces.max()) + 1 if len(faces) else 0
    first = np.full(total, -1)
    first[vertex[::-1]] = np.arange(count)[::-1]
    extra = np.flatnonzero(first[vertex] != np.arange(count))
    name = vertex.copy()
    name[extra] = total + np.arange(len(extra))
    return np.concatenate([np.arange(total), vertex[extra]]), name[label]


def _next(half: Array) -> Array:
    """The following half-edge in the same face."""
    return half - half % 3 + (half + 1) % 3


def _meet_again(name: Array, pairs: list[tuple[int, int]]) -> bool:
    """Whether two of the pairs on one edge still lie between the same two vertices."""
    ends = [frozenset((int(name[h]), int(name[_next(np.int64(h))]))) for h, _ in pairs]
    return len(set(ends)) < len(ends)


def _wedges(vertices: Array, faces: Array, found: Edges, edge: int, air: bool) -> list[tuple[int, int]]:
    """The half-edges on one crowded edge, in pairs with the solid between them, or with air.

    Turning about the edge, from its smaller vertex to its larger, a face that runs backward has the solid behind it and one that runs
    forward has it before: like brackets, which may close past the full turn.
    """
    begin, degree = found.begin[edge], found.degree[edge]
    half = found.order[begin : begin + degree]
    low, high = vertices[found.ends[edge]].astype(np.float64)
    axis = (high - low) / max(float(np.linalg.norm(high - low)), 1e-30)
    across = vertices[faces.ravel()[_next(_next(half))]].astype(np.float64) - low
    across -= (across @ axis)[:, None] * axis
    right = across[int(np.argmax((across**2).sum(axis=1)))]
    angle = np.arctan2(across @ np.cross(axis, right), across @ right)
    opens = found.forward[half] if air else ~found.forward[half]
    turning = np.lexsort((~opens, angle)).tolist()
    waiting: list[int] = []
    pairs: list[tuple[int, int]] = []
    paired: set[int] = set()
    for i in turning + turning:  # twice around: what is open at the full turn closes in the second
        if i in paired:
            continue
        if opens[i]:
            if i not in waiting:
                waiting.append(i)
        elif waiting:
            other = waiting.pop()
            paired |= {i, other}
            pairs.append((int(half[i]), int(half[other])))
    return pairs


def _halved(vertices: Array, faces: Array, pairs: list[tuple[int, int]]) -> tuple[Array, Array, Array]:
    """A vertex in the middle of each pair's edge, for its two faces alone; a face is halved once at most.

    -> vertices, faces, the vertex that each new one stands beside int64.
    """
    points, faces, extra, beside = [vertices], faces.copy(), [], []
    touched: set[int] = set()
    for pair in pairs:
        if touched & {h // 3 for h in pair}:
            continue
        middle = len(vertices) + len(beside)
        a, b = (int(faces.ravel()[h]) for h in (pair[0], int(_next(np.int64(pair[0])))))
        for h in pair:
            face, i = divmod(h, 3)
            touched.add(face)
            corners = faces[face].copy()
            second = corners.copy()
            corners[(i + 1) % 3] = second[i] = middle
            faces[face] = corners
            extra.append(second)
        apexes = [faces[h // 3, (h + 2) % 3] for h in pair]
        centre = (vertices[a].astype(np.float64) + vertices[b]) / 2
        points.append((centre + NUDGE * (vertices[apexes].mean(axis=0, dtype=np.float64) - centre)).astype(vertices.dtype)[None])
        beside.append(a)
    return np.concatenate(points), np.concatenate([faces, np.array(extra, np.int64)]), np.array(beside, np.int64)


def _moved_apart(vertices: Array, faces: Array, split: Array) -> Array:
    """The vertices, those of `split` bool (V,) a hair towards the middle of their neighbours."""
    near = np.flatnonzero(split[faces].any(axis=1))
    corner, others = faces[near].ravel(), vertices.astype(np.float64)[faces[near]].sum(axis=1).repeat(3, axis=0)
    others = (others - vertices[corner]) / 2
    count = np.maximum(np.bincount(corner, minlength=len(vertices)), 1)
    middle = np.stack([np.bincount(corner, others[:, k], minlength=len(vertices)) for k in range(3)], 1) / count[:, None]
    moved = vertices.copy()
    moved[split] += (NUDGE * (middle[split] - vertices[split])).astype(vertices.dtype)
    return moved


def vertex_normals(vertices: Array, faces: Array) -> tuple[Array, Array]:
    """Unit normals float64 (V, 3), zero where there is none, and areas float64 (V,): a third of those of the faces around."""
    vectors = area_vectors(vertices, faces)
    values = np.concatenate([vectors, np.linalg.norm(vectors, axis=1, keepdims=True)], axis=1)
    rows = np.arange(len(faces))
    around = csr_matrix((np.ones(3 * len(faces)), (faces.ravel(), rows.repeat(3))), shape=(len(vertices), len(faces)))
    summed = around @ values
    return summed[:, :3] / np.maximum(np.linalg.norm(summed[:, :3], axis=1, keepdims=True), 1e-30), summed[:, 3] / 3
