"""Triton kernels behind group_norm.py, which documents them: one pass for the statistics, one for the result."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 1024


@triton.jit(do_not_specialize=["rows", "span"])  # nothing compiles anew for another number of voxels
def _statistics_kernel(x_ptr, mean_ptr, square_ptr, rows, width, span, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Each column's mean and sum of squared distances to it, over `span` rows for each program. Sums are taken of distances to the first of these
    rows: a mean far from zero costs no digits."""
    first = tl.program_id(0).to(tl.int64) * span
    last = tl.minimum(first + span, rows)
    column = tl.arange(0, BLOCK)
    zero = tl.load(x_ptr + first * width + column, mask=column < width, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    square = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, span, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < last) & (column < width)[None, :]
        x = tl.load(x_ptr + row * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, x - zero[None, :], 0.0)
        total += away
        square += away * away
    count = (last - first).to(tl.float32)
    away = tl.sum(total, 0) / count
    tl.store(mean_ptr + tl.program_id(0) * width + column, zero + away, mask=column < width)
    tl.store(square_ptr + tl.program_id(0) * width + column, tl.sum(square, 0) - away * away * count, mask=column < width)


@triton.jit(do_not_specialize=["rows"])
def _apply_kernel(
    x_ptr, mean_ptr, mult_ptr, add_ptr, out_ptr, rows, width, SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + column, mask=column < width, other=0.0)
    mult = tl.load(mult_ptr + column, mask=column < width, other=0.0)
    y = (x - mean) * mult + tl.load(add_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    if SILU:
        y *= 1.0 / (1.0 + tl.exp(-y))
    tl.store(out_ptr + row * width + column, y.to(out_ptr.dtype.element_ty), mask=inside)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, out: Tensor) -> None:
    assert x.is_contiguous() and out.is_contiguous()
    (rows, width), repeat = x.shape, x.shape[1] // groups
    block = triton.next_power_of_2(width)
    tile = max(1, 4096 // block)
    span = triton.cdiv(triton.cdiv(rows, _PROGRAMS), tile) * tile
    programs = triton.cdiv(rows, span)
    means, squares = torch.empty(2, programs, width, device=x.device).unbind(0)
    _statistics_kernel[(programs,)](x, means, squares, rows, width, span, tile, block, num_warps=4)
    counts = torch.full((programs, 1), float(span), device=x.device)
    counts[-1] = rows - (programs - 1) * span
    mean = ((means * counts).sum(0) / rows).unflatten(0, (groups, repeat)).mean(1).repeat_interleave(repeat)
    total = (squares + counts * (means - mean).square()).sum(0)
    variance = total.unflatten(0, (groups, repeat)).mean(1).repeat_interleave(repeat) / rows
    mult = torch.rsqrt(variance + eps) * weight.float()
    tile = max(1, 4096 // block)
    _apply_kernel[(triton.cdiv(rows, tile),)](x, mean, mult, bias, out, rows, width, silu, tile, block, num_warps=4)
