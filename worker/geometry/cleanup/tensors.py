"""What the first steps ask of a raw mesh of 700,000 faces, as tensors on the device that the later steps need it on.

Twins of functions in topology.py, repair.py and components.py, for a GPU: there every one takes about a millisecond, where the plain ones
take a tenth of a second. They agree with those to the last rounding of sums. A mesh with a fault that has to be put right (`sound`
says so) goes the plain way first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .topology import Array

_LOW34, _LOW37, _LOW33 = (1 << 34) - 1, (1 << 37) - 1, (1 << 33) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)  # as signed numbers
_AT_ONCE = 1 << 22  # (point, face) pairs


def placed(values: Array | Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """The values as a tensor there; one that is there already is the same one."""
    if isinstance(values, Tensor):
        return values.to(device, dtype)
    return torch.tensor(np.ascontiguousarray(values), dtype=dtype, device=device)  # torch knows no negative strides


def plain(values: Array | Tensor) -> Array:
    """The values as an array."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def rows(values: Array | Tensor, index: Array) -> Array | Tensor:
    """values[index], for an index or a mask that is an array."""
    return values[torch.from_numpy(index).to(values.device)] if isinstance(values, Tensor) else values[index]


def sound(vertices: Tensor, faces: Tensor) -> bool:
    """Whether `clean` has nothing to weld, drop, turn or leave out: different, finite positions, all used; faces with three corners each, no
    two with the same, closed and wound alike. A chance of about 2^-24 says no for nothing."""
    used = torch.zeros(len(vertices), dtype=torch.bool, device=vertices.device)
    used[faces.flatten()] = True
    x, y, z = (vertices.float() + 0.0).view(torch.int32).long().unbind(1)
    position = _hash(_hash(x << 32 | (y & 0xFFFFFFFF)) + _hash(~z))
    ids = _hash(torch.arange(len(vertices), device=faces.device))
    a, b, c = faces.unbind(1)
    good = used.all() & vertices.isfinite().all() & ((a != b) & (b != c) & (c != a)).all() & (passes(faces).sum() == 0)
    return bool(good & ~_twice(position) & ~_twice(ids[a] + ids[b] + ids[c]))


def _twice(words: Tensor) -> Tensor:
    ordered = words.sort().values
    return (ordered[1:] == ordered[:-1]).any()


def _hash(words: Tensor) -> Tensor:
    """As topology's: the finaliser of SplitMix64, in whole numbers that wrap."""
    words = (words ^ (words >> 30 & _LOW34)) * _FIRST
    words = (words ^ (words >> 27 & _LOW37)) * _SECOND
    return words ^ (words >> 31 & _LOW33)


def passes(faces: Tensor) -> Tensor:
    """int64 (F,), as topology.passes: over closed faces that are wound alike they add up to 0."""
    ids = torch.arange(int(faces.max()) + 1 if len(faces) else 0, device=faces.device)
    one, two = _hash(ids), _hash(~ids)
    (ua, va), (ub, vb), (uc, vc) = ((one[corner], two[corner]) for corner in faces.unbind(1))
    return ua * (vb - vc) + ub * (vc - va) + uc * (va - vb)


def balanced(faces: Tensor) -> bool:
    """Whether the faces are closed in the sense of `passes`."""
    return int(passes(faces).sum()) == 0


def connect(one: Tensor, two: Tensor, count: int) -> Tensor:
    """Nodes 0..count-1 and links between one[i] and two[i] -> the least node of each node's component, int64 (count,).

    Roots hook onto the least root beside them, then all nodes jump to their roots; a few rounds (after Shiloach and Vishkin, 1982).
    """
    root = torch.arange(count, device=one.device)
    while True:
        low, high = root[one], root[two]
        open_ = (low != high).nonzero()[:, 0]
        if len(open_) == 0:
            return root
        one, two, low, high = one[open_], two[open_], low[open_], high[open_]
        root.scatter_reduce_(0, torch.maximum(low, high), torch.minimum(low, high), "amin")
        while not torch.equal(further := root[root], root):
            root = further


def area_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """float64 (F, 3), as topology.area_vectors."""
    a, b, c = vertices.double()[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a) / 2


def parts(vertices: Tensor, faces: Tensor) -> tuple[Array, ...]:
    """The fields of components.Parts, in the same order of components: label, area, volume, closed, low, high."""
    root = connect(torch.cat([faces[:, 0], faces[:, 1]]), torch.cat([faces[:, 1], faces[:, 2]]), len(vertices))
    own = root[faces[:, 0]]
    present = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    present[own] = True
    number = present.cumsum(0) - 1
    label, count = number[own], int(present.sum())
    areas = area_vectors(vertices, faces)
    part = ((vertices - vertices.double().mean(dim=0))[faces[:, 0]] * areas).sum(1) / 3
    area, volume = (torch.bincount(label, values, minlength=count) for values in (areas.norm(dim=1), part))
    turns = torch.zeros(count, dtype=torch.int64, device=faces.device).index_add_(0, label, passes(faces))
    points, whose = vertices[used := present[root].nonzero()[:, 0]], number[root[used]]
    low, high = (
        torch.zeros(count, 3, dtype=points.dtype, device=points.device).scatter_reduce(
            0, whose[:, None].expand(-1, 3), points, kind, include_self=False
        )
        for kind in ("amin", "amax")
    )
    return tuple(plain(values) for values in (label, area, volume, turns == 0, low, high))


def compact(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As topology.compact."""
    used = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    used[faces.flatten()] = True
    kept = used.nonzero()[:, 0]
    return vertices[kept], (used.cumsum(0) - 1)[faces], kept


def winding_numbers(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """float64 (P,): how often the faces surround each point, as components.winding_numbers."""
    total = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    asked = points.double()[:, None]
    for corners in vertices.double()[faces].split(max(1, _AT_ONCE // max(1, len(points)))):
        a, b, c = (corners[None, :, k] - asked for k in range(3))
        la, lb, lc = (side.norm(dim=2) for side in (a, b, c))
        volume = (a * torch.linalg.cross(b, c)).sum(2)
        ab, bc, ca = ((x * y).sum(2) for x, y in ((a, b), (b, c), (c, a)))
        total += torch.atan2(volume, la * lb * lc + ab * lc + bc * la + ca * lb).sum(dim=1)
    return total / (2 * torch.pi)
