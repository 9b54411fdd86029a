"""Box charts: faces grouped by the direction that they look in, each group projected along its mean normal and packed as a rectangle.

More stretch and less tight than xatlas, but it takes a fraction of a second, never fails, and needs numpy, scipy and torch alone.

The directions are those of a cube's sides. A rough surface, steps and noise, falls into thousands of pieces that way; seen from a cube's
corners, a flight of steps is one piece. So where there are many pieces, the corners are tried as well.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .atlas import layers
from .packing import likely_scale, loose, packed

SIDES = np.concatenate([np.eye(3), -np.eye(3)])
CORNERS = np.array(list(itertools.product((1.0, -1.0), repeat=3))) / np.sqrt(3)
MANY = 150  # pieces, from which the corners are tried
SMOOTH_ROUNDS = 6  # of moving faces to the group of their neighbours
BLUR_ROUNDS = 4  # of means over neighbours, for the normals that choose among the corners
STEEPEST = 0.35  # cosine between a face's normal and its group's direction, below which it doesn't join
SMALL = 0.004  # share of the surface below which a chart joins a neighbour where it can
MERGE_ROUNDS = 3
LOOK = 1024  # texels: overlaps that are finer aren't looked for
SPLIT_ROUNDS = 16  # of cutting charts that overlap themselves
LAYERED = 3  # of these rounds take off whole layers, later ones single faces
RINGS = 1  # of faces around an overlap that are cut off with it
TURNS = 12  # angles tried for a chart's smallest rectangle, over a quarter turn

Neighbours = tuple[np.ndarray, np.ndarray]  # int64 (E, 2) pairs of faces, float64 (E,) the length of the edge that they share


def box_charts(
    vertices: np.ndarray, faces: np.ndarray, *, size: int, padding: int, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """float32 (V, 3), int64 (F, 3) -> (source (V',), faces (F, 3), uvs float32 (V', 2), charts (F,)) as in unwrap.Unwrapped.

    No two faces share a texel, at least `padding` texels lie between charts (fewer where there are too many charts for it).
    device: where overlaps are looked for. Raises EngineError where the charts don't fit at all.
    """
    normals, areas = _normals(vertices, faces)
    neighbours = _neighbours(vertices, faces)
    axis, charts = _grouped(normals, areas, neighbours)
    places = vertices[faces].astype(np.float64)
    flat, height = _project(places, charts, normals, areas, axis)
    changed = np.arange(len(faces))
    fine = min(size, LOOK)
    scale = likely_scale(flat, charts, fine)
    for done in range(SPLIT_ROUNDS):
        # Charts can lie over themselves, never over each other: those that are new are looked at in a layout that takes no time, and all
        # of them where they have come to lie in the end.
        cut = np.zeros(len(faces), bool)
        trial = loose(flat[changed], charts[changed], scale / 2 if done == 0 else scale)  # all of them need more time
        cut[changed] = _covering(*trial, height[changed], charts[changed], done < LAYERED, device)
        if not cut.any():
            corners = packed(flat, charts, size, padding)
            cut = _covering(corners, (fine, fine), height, charts, done < LAYERED, device)
            if not cut.any():
                break
        changed = np.flatnonzero(np.isin(charts, charts[cut]))
        if done < LAYERED:
            charts = _components(charts * 2 + _grown(cut, charts, neighbours[0]), neighbours[0])
            anew = changed
        else:  # What still lies over itself goes face by face; the rest isn't turned any more, which might bring up something new.
            charts = _components(charts * (len(faces) + 1) + cut * (1 + np.arange(len(faces))), neighbours[0])
            anew = np.flatnonzero(cut)
        number = np.unique(charts[anew], return_inverse=True)[1]
        flat[anew], height[anew] = _project(places[anew], number, normals[anew], areas[anew], axis[anew])
    else:
        corners = packed(flat, charts, size, padding)
    # One new vertex for each pair of an old vertex and a chart.
    _, first, new = np.unique(faces * (charts.max() + 1) + charts[:, None], return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], new.reshape(-1, 3), corners.reshape(-1, 2)[first], charts


def _covering(
    corners: np.ndarray, shape: tuple[int, int], height: np.ndarray, charts: np.ndarray, layered: bool, device: torch.device | str
) -> np.ndarray:
    """bool (F,): faces to take out of their charts, so that no texel of a (height, width) picture belongs to two. layered: of a chart that
    lies over itself, the upper layer or the lower one, whichever has fewer faces there; else both."""
    rank = np.empty(len(height), np.int64)
    rank[np.argsort(height, kind="stable")] = np.arange(len(height))
    found = layers(torch.from_numpy(corners).to(device), torch.from_numpy(rank).to(device), *shape)
    over, under = (layer.cpu().numpy() for layer in found)
    if not layered:
        both: np.ndarray = over | under
        return both
    fewer = np.bincount(charts, over) <= np.bincount(charts, under)
    cut: np.ndarray = np.where(fewer[charts], over, under)
    return cut


def _grown(cut: np.ndarray, charts: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """With some faces around in the same chart: what lies beside an overlap is likely to be one too, too fine for the texels looked at."""
    pairs = pairs[charts[pairs[:, 0]] == charts[pairs[:, 1]]]
    more = cut
    for _ in range(RINGS):
        more, edge = more.copy(), more[pairs]
        more[pairs[edge.any(axis=1)]] = True
    whole = np.bincount(charts, ~more)[charts] == 0  # nothing would be left of the chart
    return np.where(whole, cut, more)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and areas (F,), float64; +z for faces without area."""
    corners = vertices[faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(cross, axis=1)
    return np.where(double[:, None] > 0, cross / np.maximum(double, 1e-300)[:, None], (0.0, 0.0, 1.0)), double / 2


def _neighbours(vertices: np.ndarray, faces: np.ndarray) -> Neighbours:
    """Faces that share an edge, found by the places of its ends: a mesh may have its vertices split."""
    order = np.lexsort(vertices.T)
    new = np.ones(len(order), bool)
    new[1:] = (vertices[order[1:]] != vertices[order[:-1]]).any(axis=1)
    place = np.empty(len(order), np.int64)
    place[order] = order[new][np.cumsum(new) - 1]
    start = place[faces]
    end = start[:, [1, 2, 0]]
    key = (np.minimum(start, end) * len(vertices) + np.maximum(start, end)).ravel()
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    one, two = order[same], order[same + 1]
    along = vertices[start.ravel()[one]].astype(np.float64) - vertices[end.ravel()[one]]
    return np.stack([one // 3, two // 3], axis=1), np.linalg.norm(along, axis=1)


def _components(label: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """int64 (F,): pieces of faces with one label that hang together, numbered from 0."""
    joined = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    graph = coo_matrix((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(len(label), len(label)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _grouped(normals: np.ndarray, areas: np.ndarray, neighbours: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """-> the direction that each face's group looks in, unit vectors (F, 3), and its chart int64 (F,)."""
    label = _directions(normals, areas, neighbours, SIDES)
    charts = _components(label, neighbours[0])
    if charts.max() >= MANY:
        other = _directions(normals, areas, neighbours, CORNERS, _blurred(normals * areas[:, None], neighbours[0]))
        fewer = _components(other, neighbours[0])
        if fewer.max() < charts.max():
            return CORNERS[other], fewer
    return SIDES[label], charts


def _blurred(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Vectors (F, 3) of the faces, each the mean of itself and its neighbours, a few times over, as unit vectors."""
    both = np.concatenate([pairs, pairs[:, ::-1]]).T
    around = coo_matrix((np.ones(both.shape[1]), tuple(both)), shape=(len(vectors), len(vectors))).tocsr()
    for _ in range(BLUR_ROUNDS):
        vectors = vectors + around @ vectors
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    return unit


def _directions(
    normals: np.ndarray, areas: np.ndarray, neighbours: Neighbours, axes: np.ndarray, wish: np.ndarray | None = None
) -> np.ndarray:
    """Which of the axes (D, 3) each face looks along, int64 (F,). Few and large groups are wanted: neighbours vote, small pieces join a
    larger one. wish: normals (F, 3) that decide where a face's own allows it."""
    pairs, lengths = neighbours
    cosines, many = normals @ axes.T, len(axes)
    wishes = cosines if wish is None else wish @ axes.T
    allowed = (cosines >= STEEPEST) | (cosines == cosines.max(axis=1, keepdims=True))
    label: np.ndarray = np.where(allowed, wishes, -np.inf).argmax(axis=1)
    a, b = np.concatenate([pairs, pairs[:, ::-1]]).T
    both, count = np.concatenate([lengths, lengths]), len(label)
    border = np.bincount(a, both, count)
    for _ in range(SMOOTH_ROUNDS):
        votes = np.bincount(a * many + label[b], both / np.maximum(border[a], 1e-30), count * many).reshape(-1, many)
        label = np.where(allowed, votes + wishes, -np.inf).argmax(axis=1)
    for _ in range(MERGE_ROUNDS):
        charts = _components(label, pairs)
        number = charts.max() + 1
        size = np.bincount(charts, areas, number)
        touching = (charts[a] != charts[b]) & (size[charts[a]] < SMALL * areas.sum()) & (size[charts[b]] > size[charts[a]])
        if not touching.any():
            break
        shared_border = np.bincount(charts[a[touching]] * many + label[b[touching]], both[touching], number * many).reshape(-1, many)
        shared_border[_lowest(cosines, charts, number) < STEEPEST] = 0
        label = np.where(shared_border.max(axis=1)[charts] > 0, shared_border.argmax(axis=1)[charts], label)
    return label


def _lowest(values: np.ndarray, charts: np.ndarray, number: int) -> np.ndarray:
    """Values (F, K) -> each chart's least, (number, K)."""
    order = np.argsort(charts, kind="stable")
    least: np.ndarray = np.minimum.reduceat(values[order], np.searchsorted(charts[order], np.arange(number)), axis=0)
    return least


def _project(
    corners: np.ndarray, charts: np.ndarray, normals: np.ndarray, areas: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 3) -> (F, 3, 2) along each chart's mean normal, turned so that its rectangle is small and lies; and the faces'
    heights (F,). charts int64 (F,): every number from 0 on is there. axis (F, 3): where the mean won't do."""
    number = charts.max() + 1
    mean = np.stack([np.bincount(charts, areas * normals[:, k], number) for k in range(3)], axis=1)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-300)
    least = _lowest((normals * mean[charts]).sum(axis=1)[:, None], charts, number)
    own = np.zeros((number, 3))
    own[charts] = axis
    mean = np.where(least > STEEPEST / 2, mean, own)
    across = np.eye(3)[np.abs(mean).argmin(axis=1)]
    right = np.cross(across, mean)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(mean, right)
    x, y = (np.einsum("fck,fk->fc", corners, side[charts]) for side in (right, up))
    turn = _turns(x, y, charts, number)
    cos, sin = np.cos(turn[charts])[:, None], np.sin(turn[charts])[:, None]
    flat = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)
    height = np.einsum("fck,fk->f", corners, mean[charts]) / 3
    return flat, height


def _turns(x: np.ndarray, y: np.ndarray, charts: np.ndarray, number: int) -> np.ndarray:
    """The angle (number,) by which each chart's points (F, 3) are turned, so that its rectangle is the smallest of those tried, and no
    higher than wide."""
    angles = np.arange(TURNS) * (np.pi / 2 / TURNS)
    # Each chart's extents along all the angles and across them at once: (number, 2 TURNS).
    along = np.concatenate([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]], axis=1)
    order = np.argsort(charts, kind="stable")
    begin = 3 * np.searchsorted(charts[order], np.arange(number))
    spread = np.stack([x[order].ravel(), y[order].ravel()], axis=1) @ along
    extent = np.maximum.reduceat(spread, begin, axis=0) - np.minimum.reduceat(spread, begin, axis=0)
    width, tall = extent[:, :TURNS], extent[:, TURNS:]
    best = (width * tall).argmin(axis=1)
    rows = np.arange(number)
    return angles[best] - np.where(tall[rows, best] > width[rows, best], np.pi / 2, 0)
