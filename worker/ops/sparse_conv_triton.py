"""Triton kernel behind sparse_conv.py, which documents what it computes: an implicit matrix product over the neighbour table.

A program makes a tile of BM rows x BN channels. It walks over the kernel's cells and, inside a cell, over BK input channels at a time, gathering the
neighbours' rows straight from x; nothing gathered is ever written. Cells for which no row of the tile has a neighbour are left out.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _neighbour(table_ptr, row, inside, dx, dy, dz, LEVELS: tl.constexpr):
    """Rows beside `row` at an offset, -1 where there is none. LEVELS: how often the table's set was split in 2 x 2 x 2 to get to these rows."""
    within = tl.zeros_like(row)  # the neighbour's place among the children of one row of the table
    for level in tl.static_range(LEVELS):
        child = row & 7
        x, y, z = ((child >> 2) & 1) + dx, ((child >> 1) & 1) + dy, (child & 1) + dz  # -1..2
        within += ((x & 1) * 4 + (y & 1) * 2 + (z & 1)) << (3 * level)
        dx, dy, dz = x >> 1, y >> 1, z >> 1
        row = row >> 3
    column = (dx + 1) * 9 + (dy + 1) * 3 + dz + 1
    found = tl.load(table_ptr + row.to(tl.int64) * 27 + column, mask=inside, other=-1)
    return tl.where(found < 0, -1, (found << (3 * LEVELS)) + within)


@triton.jit(do_not_specialize=["rows"])  # or every other number of voxels compiles anew
def _conv_kernel(
    x_ptr, table_ptr, weight_ptr, bias_ptr, out_ptr, rows,
    CIN: tl.constexpr, COUT: tl.constexpr, LEVELS: tl.constexpr, SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = 8 if SPLIT else 27
    BLOCKS: tl.constexpr = (CIN + BK - 1) // BK
    TILES: tl.constexpr = (COUT + BN - 1) // BN
    program = tl.program_id(0)  # tiles of channels next to one another: they gather the same rows
    column = program % TILES * BN + tl.arange(0, BN)
    program = program // TILES
    child = 0
    if SPLIT:
        child = program % 8
        program = program // 8
    row = program * BM + tl.arange(0, BM)
    inside = row < rows
    k = tl.arange(0, BK)
    weight_ptr += (child * COUT + column).to(tl.int64)[None, :] * (PARTS * CIN)
    total = tl.zeros((BM, BN), tl.float32)
    for part in range(PARTS):
        if SPLIT:  # a child's neighbours lie in the 2 x 2 x 2 parents on its side
            dx, dy, dz = (part >> 2) + (child >> 2) - 1, ((part >> 1) & 1) + ((child >> 1) & 1) - 1, (part & 1) + (child & 1) - 1
        else:
            dx, dy, dz = part // 9 - 1, part // 3 % 3 - 1, part % 3 - 1
        source = _neighbour(table_ptr, row, inside, dx, dy, dz, LEVELS)
        if tl.max(source, 0) >= 0:
            for block in range(BLOCKS):
                channel = block * BK + k
                a = tl.load(
                    x_ptr + source.to(tl.int64)[:, None] * CIN + channel[None, :],
                    mask=(source >= 0)[:, None] & (channel < CIN)[None, :],
                    other=0.0,
                )
                b = tl.load(
                    weight_ptr + (part * CIN + channel)[:, None], mask=(channel < CIN)[:, None] & (column < COUT)[None, :], other=0.0
                )
                total = tl.dot(a, b, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias_ptr + column, mask=column < COUT, other=0.0).to(tl.float32)[None, :]
    place = row.to(tl.int64)
    if SPLIT:
        place = place * 8 + child
    tl.store(
        out_ptr + place[:, None] * COUT + column[None, :],
        total.to(out_ptr.dtype.element_ty),
        mask=inside[:, None] & (column < COUT)[None, :],
    )


@functools.cache
def _shared_memory(index: int) -> int:
    """Bytes that a block may have."""
    return int(torch.cuda.get_device_properties(index).shared_memory_per_block_optin) if torch.cuda.is_available() else 1 << 20


def sparse_conv(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, levels: int, *, split: bool, tile: tuple[int, ...] | None = None
) -> Tensor:
    """split: the convolution after a subdivision; weight (8, Cout, 8, Cin) and 8 rows out for each of x. Else weight (Cout, 27, Cin)."""
    assert table.is_contiguous() and weight.is_contiguous() and table.shape[1] == 27
    x = x.contiguous()
    (rows, channels), out_channels = x.shape, weight.shape[-3]
    out = torch.empty(rows * (8 if split else 1), out_channels, dtype=x.dtype, device=x.device)
    if rows:
        bm, bn, bk, stages = tile or _tile(x, out_channels, len(out))
        grid = (triton.cdiv(rows, bm) * triton.cdiv(out_channels, bn) * (8 if split else 1),)
        _conv_kernel[grid](
            x, table, weight, weight if bias is None else bias, out, rows, channels, out_channels, levels, split, bias is not None,
            "ieee" if x.dtype == torch.float32 else "tf32", bm, bn, bk, num_warps=4, num_stages=stages,
        )  # fmt: skip
    return out


def _tile(x: Tensor, out_channels: int, rows: int) -> tuple[int, int, int, int]:
    """(BM, BN, BK, stages). Measured on an H200 at the sizes of the released models: these are within a sixth of the best of 18 at each."""
    if x.dtype == torch.float32:
        return 32, 32, 32, 2
    stages = 3 if _shared_memory(x.device.index or 0) >= 150 << 10 else 2
    if triton.cdiv(rows, 128) * triton.cdiv(out_channels, 128) < 200:  # too few for all multiprocessors
        return 64, 128, 64 if x.shape[1] >= 512 else 32, stages
    return 128, 128, 32 if x.shape[1] % 64 else 64, stages
