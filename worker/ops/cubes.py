"""Sums over the corners and edges of cubes, for dual contouring methods: what the cubes around a vertex say of it, and a cube's dual vertices.

Corner i of a cube lies at (i & 1, i >> 1 & 1, i >> 2 & 1) in (x, y, z). Both operations add in a fixed order: the same numbers every time, on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import choose

BLOCK = 1 << 17  # cubes at once on a CPU: memory follows it, and for each block torch wakes its threads some hundred times


def corner_means(features: Tensor, order: Tensor, corners: Tensor, count: int, columns: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Features of cubes' corners -> mean over the cubes around each vertex, float32 (count, K), and how many those are, int32 (count,).

    features: float32 (C, W), of cube order[c] corner i has the columns columns[i]. order: int (C,), a permutation. corners: int32 (8, C), each
    corner's vertex; every vertex has a cube. columns: int32 (8, K). shift: is added to the first column, corner by corner.
    """
    if choose(features.device, "triton") == "triton":
        from .cubes_triton import corner_means as fast

        return fast(features, order, corners, count, columns, shift)
    sums = features.new_zeros(count, columns.shape[1])
    cubes = torch.zeros(count, dtype=torch.int32, device=features.device)
    one = torch.ones((), dtype=torch.int32, device=features.device)
    for block in _blocks(len(order), features.device):
        here = features.index_select(0, order[block])
        for column, vertex in zip(columns, corners[:, block]):  # one corner at a time: no vertex comes twice
            part = here.index_select(1, column)
            part[:, 0] += shift
            _add(sums, vertex, part)
            cubes.index_add_(0, vertex, one.expand(len(vertex)))
    return sums.div_(cubes[:, None]), cubes


def dual_vertices(
    cubes: Tensor,
    corners: Tensor,
    group_of: Tensor,
    first: Tensor,
    count: int,
    sdf: Tensor,
    values: Tensor,
    weights: Tensor,
    edges: Sequence[tuple[int, int]],
    resolution: int,
) -> Tensor:
    """Means over the cut edges of each group, float32 (count, K): sum(beta u) / sum(beta), u = (p_a w_b - p_b w_a) / (w_b - w_a), w = sdf * alpha.

    cubes: int (S,), numbers of their first corners, (x * side + y) * side + z with side = resolution + 1. corners: int32 (8, S), rows of sdf (V,) and
    values (V, K), K >= 3; where -1: sdf 1, the first three values x / resolution - 1/2 and so on, the others 1/2. group_of: int32 (E, S), of each edge,
    -1 where it isn't cut. first: int32 (S,), the number of a cube's first group. weights: float32 (S, E + 8 or more): beta of the edges, alpha of the
    corners. edges: E pairs of corners (a, b).
    """
    if choose(sdf.device, "triton") == "triton":
        from .cubes_triton import dual_vertices as fast

        return fast(cubes, corners, group_of, first, count, sdf, values, weights, edges, resolution)
    sums = values.new_zeros(count, values.shape[1])
    shares = values.new_zeros(count)
    for block in _blocks(len(cubes), cubes.device):
        for slot, (a, b) in enumerate(edges):  # one edge at a time: no group comes twice
            group = group_of[slot, block]
            row = (group >= 0).nonzero()[:, 0]
            beta, alpha_a, alpha_b = (
                weights[block, column].index_select(0, row)[:, None] for column in (slot, len(edges) + a, len(edges) + b)
            )
            here = cubes[block].index_select(0, row)
            pa, wa = _corner(here, corners[a, block].index_select(0, row), a, sdf, values, resolution)
            pb, wb = _corner(here, corners[b, block].index_select(0, row), b, sdf, values, resolution)
            wa, wb = wa * alpha_a, wb * alpha_b
            vertex = (first[block] + group).index_select(0, row)
            _add(sums, vertex, pa.mul_(wb).sub_(pb.mul_(wa)).div_(wb - wa).mul_(beta))
            shares.index_add_(0, vertex, beta[:, 0])
    return sums.div_(shares[:, None])


def corner_step(corner: int, side: int) -> int:
    """How much larger a corner's number is than that of the cube."""
    return ((corner & 1) * side + (corner >> 1 & 1)) * side + (corner >> 2 & 1)


def vertex_positions(vertices: Tensor, resolution: int) -> Tensor:
    """Vertex numbers (...) -> float32 (..., 3), where a regular grid has them in [-0.5, 0.5]."""
    side = resolution + 1
    return torch.stack([vertices // side**2, vertices // side % side, vertices % side], dim=-1).float() / resolution - 0.5


def _corner(cubes: Tensor, row: Tensor, corner: int, sdf: Tensor, values: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Values (n, K) and sdf (n, 1) of a corner of cubes, with the defaults where its row is -1."""
    p, s = values.index_select(0, row.clamp(min=0)), sdf.index_select(0, row.clamp(min=0))
    absent = (row < 0).nonzero()[:, 0]
    if len(absent):
        p[absent, :3] = vertex_positions(cubes[absent] + corner_step(corner, resolution + 1), resolution)
        p[absent, 3:] = 0.5
        s[absent] = 1.0
    return p, s[:, None]


def _add(sums: Tensor, rows: Tensor, values: Tensor) -> None:
    """sums[rows] += values, where no row comes twice: several times as fast as index_add_ on a CPU."""
    sums.index_copy_(0, rows.long(), sums.index_select(0, rows).add_(values))


def _blocks(count: int, device: torch.device) -> list[slice]:
    size = BLOCK if device.type == "cpu" else max(count, 1)
    return [slice(start, start + size) for start in range(0, count, size)]
