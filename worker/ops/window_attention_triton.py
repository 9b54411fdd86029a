"""Triton kernel behind window_attention.py, which documents it: attention inside groups of rows, with a running softmax (Dao et al.,
"FlashAttention", 2022).

A program makes BM rows of one group and one head. Rows are read and written where they lie, by the groups' order: nothing is packed or padded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["tiles"])
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, order_ptr, offsets_ptr, out_ptr, q_row, k_row, v_row, q_head, k_head, v_head, out_row, scale, tiles,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    group, tile, head = tl.program_id(0) // tiles, tl.program_id(0) % tiles, tl.program_id(1)
    start = tl.load(offsets_ptr + group)
    end = tl.load(offsets_ptr + group + 1)
    if start + tile * BM < end:
        column = tl.arange(0, PADDED)[None, :]
        place = start + tile * BM + tl.arange(0, BM)
        row = tl.load(order_ptr + place, mask=place < end, other=0)[:, None]
        inside = (place < end)[:, None] & (column < WIDTH)
        q = tl.load(q_ptr + row * q_row + head * q_head + column, mask=inside, other=0.0)
        highest = tl.full((BM,), float("-inf"), tl.float32)
        weight = tl.zeros((BM,), tl.float32)
        total = tl.zeros((BM, PADDED), tl.float32)
        for first in range(start, end, BN):
            there = first + tl.arange(0, BN)
            other = tl.load(order_ptr + there, mask=there < end, other=0)[:, None]
            known = (there < end)[:, None] & (column < WIDTH)
            k = tl.load(k_ptr + other * k_row + head * k_head + column, mask=known, other=0.0)
            v = tl.load(v_ptr + other * v_row + head * v_head + column, mask=known, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # in powers of 2
            score = tl.where((there < end)[None, :], score, float("-inf"))
            higher = tl.maximum(highest, tl.max(score, 1))
            share = tl.exp2(score - higher[:, None])
            fade = tl.exp2(highest - higher)
            weight = weight * fade + tl.sum(share, 1)
            total = tl.dot(share.to(v.dtype), v, total * fade[:, None], input_precision=PRECISION)
            highest = higher
        total /= weight[:, None]
        tl.store(out_ptr + row * out_row + head * WIDTH + column, total.to(out_ptr.dtype.element_ty), mask=inside)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, order: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """order: int64 (N,), rows group by group. offsets: int32 (G + 1,), where each group starts in it. longest: the rows of the largest group."""
    q, k, v = (t if t.stride(2) == 1 else t.contiguous() for t in (q, k, v))
    count, heads, width = q.shape
    out = torch.empty(count, heads * width, dtype=q.dtype, device=q.device)
    if count:
        half = q.dtype != torch.float32
        bm, bn = (64, 32) if half else (32, 32)
        tiles = triton.cdiv(longest, bm)
        _attention_kernel[((len(offsets) - 1) * tiles, heads)](
            q, k, v, order, offsets, out, q.stride(0), k.stride(0), v.stride(0), q.stride(1), k.stride(1), v.stride(1), out.stride(0),
            width**-0.5 * 1.4426950408889634, tiles, width, max(16, triton.next_power_of_2(width)), "tf32" if half else "ieee", bm, bn,
            num_warps=4, num_stages=3,
        )  # fmt: skip
    return out
