"""Which row of a coordinate set stands beside which: made once for a set, shared by every convolution on it (spec: stage2.md 2.4, 13).

Offsets are numbered as a 3 x 3 x 3 kernel's cells, k = 9 i + 3 j + l for the offset (i - 1, j - 1, l - 1); 13 is the centre, 26 - k the opposite.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

OFFSETS = tuple(itertools.product((-1, 0, 1), repeat=3))
CHILDREN = tuple(itertools.product((0, 1), repeat=3))  # of a voxel split in 2 x 2 x 2; x slowest, z fastest
ABSENT = -1


def linear_keys(coords: Tensor, side: int) -> Tensor:
    """Integers (..., 4) in 0..side-1, the batch unbounded -> int64 (...): ascending as the rows are lexicographically."""
    b, x, y, z = coords.long().unbind(-1)
    return ((b * side + x) * side + y) * side + z


def neighbour_table(coords: Tensor) -> Tensor:
    """int32 (N, 4), different rows (batch, x, y, z), none negative -> int32 (N, 27): the row at each offset, ABSENT where there is none.

    Batches don't touch. One sort and 27 N binary searches.
    """
    count = len(coords)
    if count == 0:
        return torch.empty(0, 27, dtype=torch.int32, device=coords.device)
    side = int(coords[:, 1:].max()) + 2  # a free cell between two rows: an offset that leaves a row, at either end, meets nothing
    keys = linear_keys(coords, side)
    ordered, order = keys.sort()
    steps = torch.tensor([(dx * side + dy) * side + dz for dx, dy, dz in OFFSETS], device=coords.device)
    wanted = keys[:, None] + steps
    at = torch.searchsorted(ordered, wanted).clamp_(max=count - 1)
    return torch.where(ordered[at] == wanted, order[at], ABSENT).int()


def child_table(table: Tensor) -> Tensor:
    """The table of a set -> that of its subdivision, int32 (8 N, 27), by arithmetic: all 8 children of a voxel exist.

    Row 8 n + c is child CHILDREN[c] of row n. The child at offset d of child o is child (o + d) mod 2 of the parent's neighbour at floor((o + d) / 2).
    """
    offset, child = torch.tensor(OFFSETS), torch.tensor(CHILDREN)
    target = child[:, None] + offset  # (8, 27, 3), -1..2
    weights = torch.tensor([9, 3, 1])
    parent = ((target.div(2, rounding_mode="floor") + 1) * weights).sum(-1).to(table.device)
    inside = (target.remainder(2) * torch.tensor([4, 2, 1])).sum(-1).to(table.device, torch.int32)
    beside = table[:, parent]  # (N, 8, 27)
    return torch.where(beside == ABSENT, ABSENT, beside * 8 + inside).flatten(0, 1)
