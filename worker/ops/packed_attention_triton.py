"""Triton kernel behind packed_attention.py, which documents it: attention with a running softmax (Dao et al., "FlashAttention-2", 2023)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _packed_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, q_ends_ptr, k_ends_ptr, q_row, k_row, v_row, out_row, scale,
    PRECISION: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    head, sequence = tl.program_id(1), tl.program_id(2)
    start = tl.load(q_ends_ptr + sequence) + tl.program_id(0) * BM
    end = tl.load(q_ends_ptr + sequence + 1)
    if start < end:
        first = tl.load(k_ends_ptr + sequence)
        count = tl.load(k_ends_ptr + sequence + 1) - first
        column = head * WIDTH + tl.arange(0, WIDTH)
        row = start + tl.arange(0, BM)
        inside = (row < end)[:, None]
        row = row.to(tl.int64)[:, None]
        q = tl.load(q_ptr + row * q_row + column[None, :], mask=inside, other=0.0)
        key = tl.arange(0, BN)
        k_at = k_ptr + (first + key).to(tl.int64)[None, :] * k_row + column[:, None]
        v_at = v_ptr + (first + key).to(tl.int64)[:, None] * v_row + column[None, :]
        highest = tl.full((BM,), -1e30, tl.float32)  # in powers of 2, as all that follows
        weight = tl.zeros((BM,), tl.float32)
        total = tl.zeros((BM, WIDTH), tl.float32)
        whole = count // BN * BN
        for _ in range(0, whole, BN):
            score = tl.dot(q, tl.load(k_at), input_precision=PRECISION)
            higher = tl.maximum(highest, tl.max(score, 1) * scale)
            share = tl.exp2(score * scale - higher[:, None])
            fade = tl.exp2(highest - higher)
            weight = weight * fade + tl.sum(share, 1)
            total = tl.dot(share.to(v_ptr.dtype.element_ty), tl.load(v_at), total * fade[:, None], input_precision=PRECISION)
            highest = higher
            k_at += BN * k_row
            v_at += BN * v_row
        if whole < count:
            left = key < count - whole
            k = tl.load(k_at, mask=left[None, :], other=0.0)
            score = tl.where(left[None, :], tl.dot(q, k, input_precision=PRECISION), -1e30)
            higher = tl.maximum(highest, tl.max(score, 1) * scale)
            share = tl.exp2(score * scale - higher[:, None])
            fade = tl.exp2(highest - higher)
            weight = weight * fade + tl.sum(share, 1)
            v = tl.load(v_at, mask=left[:, None], other=0.0)
            total = tl.dot(share.to(v.dtype), v, total * fade[:, None], input_precision=PRECISION)
        tl.store(out_ptr + row * out_row + column[None, :], (total / weight[:, None]).to(out_ptr.dtype.element_ty), mask=inside)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, longest: int) -> Tensor:
    """q_ends, k_ends: int32 (B + 1,). longest: the most queries of a sequence."""
    count, heads, width = q.shape
    assert all(t.stride(2) == 1 and t.stride(1) == width for t in (q, k, v))
    out = torch.empty(count, heads * width, dtype=q.dtype, device=q.device)
    if count:
        half = q.dtype != torch.float32
        # With three stages the best of 18 ways on an H200, at width 64 and 4,400 to 5,500 rows.
        bm, bn, stages = (64, 64, 3 if width <= 64 else 2) if half else (32, 32, 2)
        _packed_attention_kernel[(triton.cdiv(longest, bm), heads, len(q_ends) - 1)](
            q, k, v, out, q_ends, k_ends, q.stride(0), k.stride(0), v.stride(0), out.stride(0), width**-0.5 * 1.4426950408889634,
            "tf32" if half else "ieee", width, bm, bn, num_warps=4, num_stages=stages,
        )  # fmt: skip
    return out
