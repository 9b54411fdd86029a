"""The bodies of a mesh: floaters, inner shells, and which of them bound a hollow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import tensors
from .tensors import placed, plain, rows
from .topology import Array, area_vectors, connect, passes, signed_volumes


@dataclass(frozen=True)
class Parts:
    """Connected components, C of them. label int64 (F,); area, volume float64 (C,), volume signed; closed bool (C,); low, high (C, 3):
    their boxes.
    """

    label: Array
    area: Array
    volume: Array
    closed: Array
    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.area)


def parts_of(vertices: Array | Tensor, faces: Array | Tensor) -> Parts:
    """The components of faces that share vertices, in the order of their least vertices."""
    if isinstance(vertices, Tensor) and isinstance(faces, Tensor):
        return Parts(*tensors.parts(vertices, faces))
    if len(faces) == 0:
        none = np.zeros(0)
        return Parts(np.zeros(0, np.int64), none, none, np.zeros(0, bool), np.zeros((0, 3)), np.zeros((0, 3)))
    _, place = connect(np.concatenate([faces[:, :2], faces[:, 1:]]), len(vertices))
    label = place[faces[:, 0]]
    present = np.zeros(place.max() + 1, bool)
    present[label] = True
    renumber = np.where(present, np.cumsum(present) - 1, -1)
    label, place = renumber[label], renumber[place]
    count = int(present.sum())
    areas = area_vectors(vertices, faces)
    area = np.bincount(label, np.sqrt(np.einsum("ij,ij->i", areas, areas)), minlength=count)
    order = np.argsort(label, kind="stable")
    begin = np.searchsorted(label[order], np.arange(count))
    closed = np.add.reduceat(passes(faces)[order], begin) == 0
    used = np.flatnonzero(place >= 0)
    used = used[np.argsort(place[used], kind="stable")]
    begin = np.searchsorted(place[used], np.arange(count))
    low, high = (least.reduceat(vertices[used], begin, axis=0) for least in (np.minimum, np.maximum))
    return Parts(label, area, signed_volumes(vertices, faces, label, count, areas), closed, low, high)


def floaters(parts: Parts, share: float) -> Array:
    """bool (C,): components with less than `share` of the largest one's area, and closed ones without volume, unless there is nothing else."""
    if len(parts) == 0:
        return np.zeros(0, bool)
    flat = parts.closed & (np.abs(parts.volume) < 1e-9 * parts.area**1.5)
    return (parts.area < share * parts.area.max()) | (flat & ~flat.all())


def depths(vertices: Array | Tensor, faces: Array | Tensor, parts: Parts, among: Array | None = None) -> Array:
    """int64 (C,): how many other closed components lie around each. An inner shell has 1 or more, and so has whatever rattles inside it.

    among: bool (C,), the components that count at all; the others get 0. Decided at three vertices of each, by majority.
    """
    depth = np.zeros(len(parts), np.int64)
    counted = np.ones(len(parts), bool) if among is None else among
    first = None
    for around in np.flatnonzero(parts.closed & counted):
        inside = (parts.low >= parts.low[around]).all(axis=1) & (parts.high <= parts.high[around]).all(axis=1) & counted
        inside[around] = False
        tested = np.flatnonzero(inside)
        if len(tested) == 0:
            continue
        first = _three_faces(parts.label, len(parts)) if first is None else first
        points = vertices[rows(faces, first[tested].ravel())[:, 0]]
        turns = winding_numbers(points, vertices, rows(faces, parts.label == around)).reshape(-1, 3)
        depth[tested] += (np.abs(turns) > 0.5).sum(axis=1) >= 2
    return depth


def _three_faces(label: Array, count: int) -> Array:
    """int64 (count, 3): faces of each component, spread over it."""
    order = np.argsort(label, kind="stable")
    size = np.bincount(label, minlength=count)
    begin = np.cumsum(size) - size
    return order[begin[:, None] + (size[:, None] * np.array([0, 1, 2])) // 3]


def winding_numbers(points: Array | Tensor, vertices: Array | Tensor, faces: Array | Tensor) -> Array:
    """float64 (P,): how often the faces surround each point: 1 inside a closed mesh that faces outwards, -1 if inwards, 0 outside.

    The sum of the faces' solid angles over 4 pi (van Oosterom and Strackee, 1983); for an open mesh it is the share of the sky that it
    covers.
    """
    device = vertices.device if isinstance(vertices, Tensor) else "cpu"
    return plain(tensors.winding_numbers(*(placed(values, device) for values in (points, vertices, faces))))
