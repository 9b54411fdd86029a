"""Triton kernels behind sparse_fused.py, which documents them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["rows"])
def _norm_silu_kernel(x_ptr, mult_ptr, add_ptr, out_ptr, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1)[:, None] / width
    centred = tl.where(inside, x - mean, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred, 1)[:, None] / width + eps)
    y *= tl.load(mult_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    y += tl.load(add_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    y *= 1.0 / (1.0 + tl.exp(-y))
    tl.store(out_ptr + row * width + column, y.to(out_ptr.dtype.element_ty), mask=inside)


def norm_silu(x: Tensor, mult: Tensor, add: Tensor, eps: float) -> Tensor:
    assert x.is_contiguous()
    rows, width = x.shape
    out = torch.empty_like(x)
    if rows:
        block = triton.next_power_of_2(width)
        tile = max(1, 2048 // block)
        _norm_silu_kernel[(triton.cdiv(rows, tile),)](x, mult, add, out, rows, width, eps, tile, block, num_warps=4)
    return out


@triton.jit(do_not_specialize=["rows"])
def _gather_sum_kernel(
    values_ptr, table_ptr, bias_ptr, weight_ptr, out_ptr, rows, width, row_stride, part_stride,
    HAS_BIAS: tl.constexpr, HAS_WEIGHT: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows)[:, None] & (column < width)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for part in tl.static_range(PARTS):  # unrolled: many loads under way
        source = tl.load(table_ptr + row * PARTS + part, mask=row < rows, other=-1).to(tl.int64)[:, None]
        total += tl.load(values_ptr + source * row_stride + part * part_stride + column, mask=inside & (source >= 0), other=0.0).to(
            tl.float32
        )
    if HAS_WEIGHT:
        total *= tl.load(weight_ptr + row, mask=row < rows, other=0.0)[:, None]
    if HAS_BIAS:
        total += tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + row[:, None] * width + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def gather_sum(values: Tensor, table: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
    assert values.stride(2) == 1 and table.is_contiguous()
    (rows, parts), width = table.shape, values.shape[2]
    out = torch.empty(rows, width, dtype=values.dtype, device=values.device)
    if rows:
        block = min(128, triton.next_power_of_2(width))
        tile = max(1, 1024 // block)
        _gather_sum_kernel[(triton.cdiv(rows, tile), triton.cdiv(width, block))](
            values, table, values if bias is None else bias, values if weight is None else weight, out, rows, width, values.stride(0),
            values.stride(1), bias is not None, weight is not None, parts, tile, block, num_warps=4,
        )  # fmt: skip
    return out
