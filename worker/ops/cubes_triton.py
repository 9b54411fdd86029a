"""Triton kernels behind cubes.py, which documents them. Every number is a sum in registers: no atomics, no lists of edges in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["cubes", "vertices"])  # or every other number of them compiles anew, for seconds
def _around_kernel(order_ptr, corners_ptr, around_ptr, cubes, vertices, BLOCK: tl.constexpr):
    """around[i, v] = the cube whose corner i is v."""
    cube = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = cube < cubes
    row = tl.load(order_ptr + cube, mask=inside, other=0).to(tl.int32)
    for i in tl.static_range(8):
        vertex = tl.load(corners_ptr + i * cubes.to(tl.int64) + cube, mask=inside, other=0)
        tl.store(around_ptr + i * vertices.to(tl.int64) + vertex, row, mask=inside)


@triton.jit(do_not_specialize=["vertices"])
def _means_kernel(
    features_ptr, around_ptr, columns_ptr, means_ptr, cubes_ptr, vertices, width, shift, K: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = vertex < vertices
    k = tl.arange(0, WIDE)
    sums = tl.zeros([BLOCK, WIDE], tl.float32)
    cubes = tl.zeros([BLOCK], tl.int32)
    for i in tl.static_range(8):
        row = tl.load(around_ptr + i * vertices.to(tl.int64) + vertex, mask=inside, other=-1)
        there = row >= 0
        column = tl.load(columns_ptr + i * K + k, mask=k < K, other=0)
        found = there[:, None] & (k < K)[None, :]
        x = tl.load(features_ptr + row.to(tl.int64)[:, None] * width + column[None, :], mask=found, other=0.0)
        sums += tl.where(found & (k == 0)[None, :], x + shift, x)
        cubes += there.to(tl.int32)
    mean = sums / tl.maximum(cubes, 1).to(tl.float32)[:, None]
    tl.store(means_ptr + vertex.to(tl.int64)[:, None] * K + k[None, :], mean, mask=inside[:, None] & (k < K)[None, :])
    tl.store(cubes_ptr + vertex, cubes, mask=inside)


def corner_means(features: Tensor, order: Tensor, corners: Tensor, count: int, columns: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    assert features.stride(1) == 1 and features.dtype == torch.float32 and corners.is_contiguous() and columns.is_contiguous()
    around = torch.full((8, count), -1, dtype=torch.int32, device=features.device)
    width = columns.shape[1]
    means = features.new_empty(count, width)
    cubes = torch.empty(count, dtype=torch.int32, device=features.device)
    if count:
        _around_kernel[(triton.cdiv(len(order), 256),)](order, corners, around, len(order), count, 256)
        _means_kernel[(triton.cdiv(count, 32),)](
            features, around, columns, means, cubes, count, features.stride(0), shift, width, triton.next_power_of_2(width), 32, num_warps=4
        )  # fmt: skip
    return means, cubes


@triton.jit
def _corner(cube, row, present, needed, sdf_ptr, values_ptr, stride, k, STEP, K: tl.constexpr, RESOLUTION: tl.constexpr):
    """sdf (n,) and values (n, WIDE) of one corner; the defaults where it isn't known."""
    side: tl.constexpr = RESOLUTION + 1
    sdf = tl.load(sdf_ptr + row, mask=present, other=1.0)
    values = tl.load(values_ptr + row.to(tl.int64)[:, None] * stride + k[None, :], mask=present[:, None] & (k < K)[None, :], other=0.5)
    vertex = cube + STEP
    x, y, z = vertex // (side * side), vertex // side % side, vertex % side
    axis = k[None, :]
    place = tl.where(axis == 0, x[:, None], tl.where(axis == 1, y[:, None], z[:, None])).to(tl.float32) / RESOLUTION - 0.5
    return sdf, tl.where((needed & ~present)[:, None] & (axis < 3), place, values)


@triton.jit(do_not_specialize=["count"])
def _dual_kernel(
    cubes_ptr, corners_ptr, group_ptr, first_ptr, sdf_ptr, values_ptr, weights_ptr, out_ptr, count, stride, width,
    STARTS: tl.constexpr, ENDS: tl.constexpr, EDGES: tl.constexpr, RESOLUTION: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = row < count
    k = tl.arange(0, WIDE)
    share = (k == K)[None, :]  # the column after the values holds the sum of the weights
    cube = tl.load(cubes_ptr + row, mask=inside, other=0)
    side: tl.constexpr = RESOLUTION + 1
    sum0 = tl.zeros([BLOCK, WIDE], tl.float32)
    sum1 = tl.zeros([BLOCK, WIDE], tl.float32)
    sum2 = tl.zeros([BLOCK, WIDE], tl.float32)
    sum3 = tl.zeros([BLOCK, WIDE], tl.float32)
    last = tl.zeros([BLOCK], tl.int32) - 1
    for edge in tl.static_range(EDGES):
        a = (STARTS >> (3 * edge)) & 7
        b = (ENDS >> (3 * edge)) & 7
        group = tl.load(group_ptr + edge * count.to(tl.int64) + row, mask=inside, other=-1)
        cut = group >= 0
        last = tl.maximum(last, group)
        row_a = tl.load(corners_ptr + a * count.to(tl.int64) + row, mask=cut, other=-1)
        row_b = tl.load(corners_ptr + b * count.to(tl.int64) + row, mask=cut, other=-1)
        step_a = ((a & 1) * side + ((a >> 1) & 1)) * side + ((a >> 2) & 1)
        step_b = ((b & 1) * side + ((b >> 1) & 1)) * side + ((b >> 2) & 1)
        sa, pa = _corner(cube, row_a, row_a >= 0, cut, sdf_ptr, values_ptr, stride, k, step_a, K, RESOLUTION)
        sb, pb = _corner(cube, row_b, row_b >= 0, cut, sdf_ptr, values_ptr, stride, k, step_b, K, RESOLUTION)
        beta = tl.load(weights_ptr + row * width + edge, mask=cut, other=0.0)
        wa = sa * tl.load(weights_ptr + row * width + EDGES + a, mask=cut, other=1.0)
        wb = sb * tl.load(weights_ptr + row * width + EDGES + b, mask=cut, other=1.0)
        gap = tl.where(cut, wb - wa, 1.0)
        u = (pa * wb[:, None] - pb * wa[:, None]) / gap[:, None]
        u = tl.where(share, 1.0, u) * beta[:, None]  # beta is 0 where the edge isn't cut
        sum0 += tl.where((group == 0)[:, None], u, 0.0)
        sum1 += tl.where((group == 1)[:, None], u, 0.0)
        sum2 += tl.where((group == 2)[:, None], u, 0.0)
        sum3 += tl.where((group == 3)[:, None], u, 0.0)
    first = tl.load(first_ptr + row, mask=inside, other=0).to(tl.int64)
    for group in tl.static_range(4):
        sums = sum0 if group == 0 else sum1 if group == 1 else sum2 if group == 2 else sum3
        total = tl.sum(tl.where(share, sums, 0.0), 1)
        there = last >= group
        mean = sums / tl.where(there, total, 1.0)[:, None]
        tl.store(out_ptr + (first + group)[:, None] * K + k[None, :], mean, mask=there[:, None] & (k < K)[None, :])


def dual_vertices(
    cubes: Tensor, corners: Tensor, group_of: Tensor, first: Tensor, count: int, sdf: Tensor, values: Tensor, weights: Tensor,
    edges: Sequence[tuple[int, int]], resolution: int,
) -> Tensor:  # fmt: skip
    assert all(tensor.is_contiguous() for tensor in (cubes, corners, group_of, first, sdf, weights)) and values.stride(1) == 1
    width = values.shape[1]
    out = values.new_empty(count, width)
    starts, ends = (sum(edge[side] << 3 * slot for slot, edge in enumerate(edges)) for side in (0, 1))
    if len(cubes):
        _dual_kernel[(triton.cdiv(len(cubes), 16),)](
            cubes, corners, group_of, first, sdf, values, weights, out, len(cubes), values.stride(0), weights.shape[1], starts, ends, len(edges), resolution,
            width, triton.next_power_of_2(width + 1), 16, num_warps=4,
        )  # fmt: skip
    return out
