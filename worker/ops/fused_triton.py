"""Triton kernels behind fused.py, which documents them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _residual_norm_kernel(
    x_ptr, update_ptr, gate_ptr, const_ptr, mult_ptr, add_ptr, out_ptr, width, eps,
    HAS_UPDATE: tl.constexpr, HAS_GATE: tl.constexpr, HAS_CONST: tl.constexpr, HAS_MULT: tl.constexpr, HAS_ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0)
    if HAS_UPDATE:
        update = tl.load(update_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            update *= tl.load(gate_ptr + column, mask=inside, other=0.0).to(tl.float32)
        x += update
    if HAS_CONST:
        x += tl.load(const_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE or HAS_CONST:
        tl.store(x_ptr + row * width + column, x, mask=inside)
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    if HAS_MULT:
        y *= tl.load(mult_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        y += tl.load(add_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + column, y.to(out_ptr.dtype.element_ty), mask=inside)


def residual_norm(
    x: Tensor, update: Tensor | None, gate: Tensor | None, mult: Tensor | None, add: Tensor | None, const: Tensor | None, eps: float,
    out: Tensor,
) -> Tensor:  # fmt: skip
    assert x.is_contiguous() and x.dtype == torch.float32 and out.is_contiguous()
    width = x.shape[-1]
    update = None if update is None else update.contiguous()
    rows = x.numel() // width
    block = triton.next_power_of_2(width)
    _residual_norm_kernel[(rows,)](
        x, x if update is None else update, x if gate is None else gate, x if const is None else const, x if mult is None else mult,
        x if add is None else add, out, width, eps, update is not None, gate is not None, const is not None, mult is not None, add is not None,
        block, num_warps=max(1, min(8, block // 256)),
    )  # fmt: skip
    return out


@triton.jit
def _head_norm_kernel(qkv_ptr, gamma_ptr, batch_stride, heads, ROOT: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)  # 0: query, 1: key
    batch = tl.program_id(2).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    inside = head < heads
    place = head * WIDTH + column
    at = qkv_ptr + batch * batch_stride + (token * 3 + part) * heads * WIDTH + place
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(x * x, 1))[:, None]
    gamma = tl.load(gamma_ptr + part * heads * WIDTH + place, mask=inside, other=0.0)
    y = x / tl.maximum(length, 1e-12) * gamma * ROOT
    tl.store(at, y.to(qkv_ptr.dtype.element_ty), mask=inside)


def head_norm_(qkv: Tensor, gamma: Tensor) -> Tensor:
    rows = qkv if qkv.ndim == 5 and not qkv.is_contiguous() else qkv.view(1, -1, *qkv.shape[-3:])
    count, tokens, _, heads, width = rows.shape
    assert rows.stride()[1:] == (3 * heads * width, heads * width, width, 1) and gamma.is_contiguous()
    _head_norm_kernel[(tokens, 2, count)](
        rows, gamma, rows.stride(0), heads, float(width) ** 0.5, triton.next_power_of_2(heads), width, num_warps=4
    )  # fmt: skip
    return qkv
