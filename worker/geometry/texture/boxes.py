"""Box charts: faces grouped by the direction that they look in, each group projected along its mean normal and packed as a rectangle.

More stretch and less tight than xatlas, but it takes a fraction of a second, never fails, and needs numpy, scipy and torch alone.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ....contract.errors import EngineError
from .atlas import shared

AXES = np.concatenate([np.eye(3), -np.eye(3)])
SMOOTH_ROUNDS = 6  # of moving faces to the group of their neighbours
STEEPEST = 0.35  # cosine between a face's normal and its group's direction, below which it doesn't join
SMALL = 0.004  # share of the surface below which a chart joins a neighbour where it can
MERGE_ROUNDS = 3
LOOK = 1024  # texels: overlaps that are finer aren't looked for
SPLIT_ROUNDS = 10  # of cutting charts that overlap themselves
TURNS = 12  # angles tried for a chart's smallest rectangle, over a quarter turn
SEARCH = 9  # halvings of the interval that the scale is looked for in

Neighbours = tuple[np.ndarray, np.ndarray]  # int64 (E, 2) pairs of faces, float64 (E,) the length of the edge that they share


def box_charts(
    vertices: np.ndarray, faces: np.ndarray, *, size: int, padding: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """float32 (V, 3), int64 (F, 3) -> (source (V',), faces (F, 3), uvs float32 (V', 2), charts (F,)) as in unwrap.Unwrapped.

    No two faces share a texel, at least `padding` texels lie between charts (fewer where there are too many charts for it).
    Raises EngineError where the charts don't fit at all.
    """
    normals, areas = _normals(vertices, faces)
    neighbours = _neighbours(vertices, faces)
    label = _directions(normals, areas, neighbours)
    charts = _components(label, neighbours[0])
    flat, height = _project(vertices[faces].astype(np.float64), charts, normals, areas, label)
    corners = _packed(flat, charts, size, padding)
    for _ in range(SPLIT_ROUNDS):
        double = np.unique(charts[shared(torch.from_numpy(corners), *[min(size, LOOK)] * 2).numpy()])
        if not len(double):
            break
        # Faces that lie over each other differ in height: the upper half of such a chart becomes a chart of its own, in as many pieces as
        # it has.
        cut = np.isin(charts, double) & (height > _medians(height, charts)[charts])
        charts = _components(charts * 2 + cut, neighbours[0])
        flat, height = _project(vertices[faces].astype(np.float64), charts, normals, areas, label)
        corners = _packed(flat, charts, size, padding)
    # One new vertex for each pair of an old vertex and a chart.
    _, first, new = np.unique(faces * (charts.max() + 1) + charts[:, None], return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], new.reshape(-1, 3), corners.reshape(-1, 2)[first], charts


def _normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and areas (F,), float64; +z for faces without area."""
    corners = vertices[faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(cross, axis=1)
    return np.where(double[:, None] > 0, cross / np.maximum(double, 1e-300)[:, None], (0.0, 0.0, 1.0)), double / 2


def _neighbours(vertices: np.ndarray, faces: np.ndarray) -> Neighbours:
    """Faces that share an edge, found by the places of its ends: a mesh may have its vertices split."""
    places, which = np.unique(vertices, axis=0, return_inverse=True)
    faces = which.reshape(-1)[faces]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owner = edges[order], np.tile(np.arange(len(faces)), 3)[order]
    same = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=1))
    ends = places[edges[same]].astype(np.float64)
    return np.stack([owner[same], owner[same + 1]], axis=1), np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)


def _components(label: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """int64 (F,): pieces of faces with one label that hang together, numbered from 0."""
    joined = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    graph = coo_matrix((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(len(label), len(label)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _directions(normals: np.ndarray, areas: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """Which of AXES each face looks along, int64 (F,). Few and large groups are wanted: neighbours vote, small pieces join a larger one."""
    pairs, lengths = neighbours
    cosines = normals @ AXES.T
    label: np.ndarray = cosines.argmax(axis=1)
    a, b = np.concatenate([pairs, pairs[:, ::-1]]).T
    both, count = np.concatenate([lengths, lengths]), len(label)
    border = np.bincount(a, both, count)
    for _ in range(SMOOTH_ROUNDS):
        votes = np.bincount(a * 6 + label[b], both / np.maximum(border[a], 1e-30), count * 6).reshape(-1, 6)
        label = np.where(cosines >= STEEPEST, votes + cosines, -np.inf).argmax(axis=1)
    for _ in range(MERGE_ROUNDS):
        charts = _components(label, pairs)
        number = charts.max() + 1
        size = np.bincount(charts, areas, number)
        touching = (charts[a] != charts[b]) & (size[charts[a]] < SMALL * areas.sum()) & (size[charts[b]] > size[charts[a]])
        if not touching.any():
            break
        shared_border = np.bincount(charts[a[touching]] * 6 + label[b[touching]], both[touching], number * 6).reshape(-1, 6)
        worst = np.full((number, 6), np.inf)
        np.minimum.at(worst, charts, cosines)
        shared_border[worst < STEEPEST] = 0
        label = np.where(shared_border.max(axis=1)[charts] > 0, shared_border.argmax(axis=1)[charts], label)
    return label


def _project(
    corners: np.ndarray, charts: np.ndarray, normals: np.ndarray, areas: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 3) -> (F, 3, 2) along each chart's mean normal, turned so that its rectangle is small and lies; and the faces'
    heights (F,)."""
    number = charts.max() + 1
    mean = np.stack([np.bincount(charts, areas * normals[:, axis], number) for axis in range(3)], axis=1)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-300)
    least = np.full(number, np.inf)
    np.minimum.at(least, charts, (normals * mean[charts]).sum(axis=1))
    axis = np.zeros((number, 3))
    axis[charts] = AXES[label]
    mean = np.where(least[:, None] > STEEPEST / 2, mean, axis)
    across = np.eye(3)[np.abs(mean).argmin(axis=1)]
    right = np.cross(across, mean)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(mean, right)
    x, y = (corners * right[charts][:, None]).sum(axis=2), (corners * up[charts][:, None]).sum(axis=2)
    best, turn = np.full(number, np.inf), np.zeros(number)
    for angle in np.arange(TURNS) * (np.pi / 2 / TURNS):
        width, tall = (_extent(values, charts, number) for values in _turned(x, y, np.full(number, angle)[charts]))
        turn = np.where(width * tall < best * (1 - 1e-9), angle, turn)
        best = np.minimum(best, width * tall)
    x, y = _turned(x, y, turn[charts])
    stands = (_extent(y, charts, number) > _extent(x, charts, number))[charts][:, None]
    x, y = np.where(stands, y, x), np.where(stands, -x, y)
    height = (corners * mean[charts][:, None]).sum(axis=2).mean(axis=1)
    return np.stack([x, y], axis=2), height


def _turned(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return cos * x - sin * y, sin * x + cos * y


def _ends(values: np.ndarray, charts: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (F, 3) -> each chart's lowest and highest."""
    low, high = np.full(number, np.inf), np.full(number, -np.inf)
    np.minimum.at(low, charts, values.min(axis=1))
    np.maximum.at(high, charts, values.max(axis=1))
    return low, high


def _extent(values: np.ndarray, charts: np.ndarray, number: int) -> np.ndarray:
    low, high = _ends(values, charts, number)
    return high - low


def _medians(values: np.ndarray, charts: np.ndarray) -> np.ndarray:
    """Of each chart; the lower of the two middle ones, so that a chart with two faces of different heights is cut."""
    order = np.lexsort((values, charts))
    counts = np.bincount(charts)
    return values[order][np.cumsum(counts) - counts + (counts - 1) // 2]


def _packed(flat: np.ndarray, charts: np.ndarray, size: int, padding: int) -> np.ndarray:
    """Corners (F, 3, 2) in metres, each chart for itself -> UVs (F, 3, 2) float32: the charts at one scale, as large as they fit."""
    number = charts.max() + 1
    ends = [_ends(flat[:, :, axis], charts, number) for axis in range(2)]
    low = np.stack([ends[0][0], ends[1][0]], axis=1)
    metres = np.stack([ends[0][1], ends[1][1]], axis=1) - low
    while True:
        least, most = 0.0, size / max(float(metres.max()), np.sqrt(float(metres.prod(axis=1).sum())), 1e-30)
        best = _placed(metres * least, size, padding)
        if best is not None or padding == 0:
            break
        padding //= 2
    if best is None:
        raise EngineError(
            f"{number} charts don't fit into a texture of {size} texels.", "Choose a larger texture, or smooth and decimate the mesh."
        )
    for _ in range(SEARCH):
        middle = (least + most) / 2
        places = _placed(metres * middle, size, padding)
        if places is None:
            most = middle
        else:
            least, best = middle, places
    return (((flat - low[charts][:, None]) * least + best[charts][:, None]) / size).astype(np.float32)


def _placed(texels: np.ndarray, size: int, padding: int) -> np.ndarray | None:
    """Rectangles (C, 2), width and height -> where their low corners go, (C, 2); None where they don't fit. Skyline packing, the
    highest first: each goes where it comes to lie lowest."""
    outer = np.ceil(texels).astype(np.int64) + 1 + padding
    places = np.zeros((len(texels), 2))
    skyline = np.zeros(size, np.int64)
    for chart in np.lexsort((-outer[:, 0], -outer[:, 1])):
        width, tall = outer[chart]
        if width > size:
            return None
        lowest = maximum_filter1d(skyline, width, origin=-((width) // 2), mode="nearest")[: size - width + 1]
        x = int(lowest.argmin())
        if lowest[x] + tall > size:
            return None
        places[chart] = x, lowest[x]
        skyline[x : x + width] = lowest[x] + tall
    return places + (padding + 1) / 2
