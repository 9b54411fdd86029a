"""The nearest of many points: a k-d tree on the CPU, a grid of cells on any other device."""

from __future__ import annotations

import itertools
from typing import Protocol

import torch

MAX_CELLS = 1 << 26
CHUNK = 1 << 24  # candidates that are looked at together: about a gigabyte


class Finder(Protocol):
    def nearest(self, queries: torch.Tensor, k: int, radius: float) -> torch.Tensor:
        """The k nearest points within `radius` of each of the queries (N, 3), nearest first -> int64 (N, k), -1 where there are fewer."""
        ...

    def distance(self, queries: torch.Tensor, k: int) -> torch.Tensor:
        """How far the k-th nearest point is, (N,). For few queries."""
        ...


def finder(points: torch.Tensor) -> Finder:
    """Points float32 (P, 3), finite, at least one."""
    return Tree(points) if points.device.type == "cpu" else Grid(points)


class Tree:
    def __init__(self, points: torch.Tensor) -> None:
        from scipy.spatial import cKDTree

        self._count = len(points)
        # Unbalanced nodes are built in half the time and searched as fast.
        self._tree = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False)

    def nearest(self, queries: torch.Tensor, k: int, radius: float) -> torch.Tensor:
        found = self._tree.query(queries.numpy(), k=range(1, k + 1), distance_upper_bound=radius, workers=-1)[1]
        which = torch.from_numpy(found)
        return torch.where(which == self._count, -1, which)

    def distance(self, queries: torch.Tensor, k: int) -> torch.Tensor:
        return torch.from_numpy(self._tree.query(queries.numpy(), k=[k])[0][:, 0]).float()


class Grid:
    """Cells as wide as the radius: what lies within it lies in the 27 cells around a query, nine runs of the points sorted by cell."""

    def __init__(self, points: torch.Tensor) -> None:
        self._points = points
        self._low = points.amin(0)
        self._room = points.amax(0) - self._low
        self._cell = 0.0

    def _sort(self, radius: float) -> None:
        least = float(self._room.max()) / MAX_CELLS ** (1 / 3)
        cell = max(radius, least, 1e-12)
        if cell == self._cell:
            return
        self._cell = cell
        self._size = (self._room / cell).long() + 1  # cells along x, y, z
        x, y, z = ((self._points - self._low) / cell).long().unbind(1)
        number, self._order = ((x * self._size[1] + y) * self._size[2] + z).sort(stable=True)
        ends = torch.bincount(number, minlength=int(self._size.prod())).cumsum(0)
        self._begin = torch.cat([ends.new_zeros(1), ends])  # of each cell, and of one more
        self._sorted = self._points[self._order]

    def nearest(self, queries: torch.Tensor, k: int, radius: float) -> torch.Tensor:
        self._sort(radius)
        begin, count = self._runs(queries)
        found = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        total, by_total = count.sum(1).sort()
        for rows in _portions(total.cpu()):
            mine = by_total[rows]
            until = count[mine].cumsum(1)
            slot = torch.arange(max(int(total[rows][-1]), k), device=queries.device)
            run = torch.searchsorted(until, slot.expand(len(mine), -1).contiguous(), right=True)
            real = run < count.shape[1]
            at = (begin[mine] - until + count[mine]).gather(1, run.clamp_max(count.shape[1] - 1)) + slot
            at = torch.where(real, at, 0)
            squared = (self._sorted[at] - queries[mine, None]).square().sum(2)
            squared = torch.where(real & (squared < radius * radius), squared, torch.inf)
            best, which = squared.topk(k, dim=1, largest=False)
            found[mine] = torch.where(best < torch.inf, self._order[at.gather(1, which)], -1)
        return found

    def _runs(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the nine runs around each query begin, and how long they are: int64 (N, 9) each."""
        home = ((queries - self._low) / self._cell).floor().clamp(-4, 1 << 20).long()  # far outside: no neighbours
        ring = torch.arange(-1, 2, device=queries.device)
        steps = torch.cartesian_prod(ring, ring)
        x, y = home[:, :1] + steps[:, 0], home[:, 1:2] + steps[:, 1]
        low, high = (home[:, 2:] - 1).clamp_min(0), torch.minimum(home[:, 2:] + 1, self._size[2] - 1)
        there = (x >= 0) & (x < self._size[0]) & (y >= 0) & (y < self._size[1]) & (low <= high)
        column = (x * self._size[1] + y) * self._size[2]
        begin = self._begin[torch.where(there, column + low, 0)]
        return begin, torch.where(there, self._begin[torch.where(there, column + high + 1, 0)] - begin, 0)

    def distance(self, queries: torch.Tensor, k: int) -> torch.Tensor:
        parts = [torch.cdist(part, self._points).kthvalue(k, dim=1).values for part in queries.split(64)]
        return torch.cat(parts)


def _portions(totals: torch.Tensor) -> list[slice]:
    """Rising numbers of candidates (N,) -> slices of rows that, padded to their last row's number, hold about CHUNK."""
    bounds = [0]
    while (start := bounds[-1]) < len(totals):
        low, high = start + 1, len(totals)
        while low < high:  # what rows start..end hold rises with end
            middle = (low + high + 1) // 2
            low, high = (middle, high) if (middle - start) * int(totals[middle - 1]) <= CHUNK else (low, middle - 1)
        bounds.append(low)
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
