"""Attention for head width 64 on Hopper, in Triton's Gluon dialect: FlashAttention-3's division of labour (Shah et al. 2024).

One warp fetches tiles of keys and values by the tensor memory accelerator; three warpgroups take 64 queries each and run out of step by themselves,
so that one's exponentials hide behind another's products. attention.py decides whether this file is imported at all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

WIDTH = 64  # of a head
ROWS, GROUPS = 64, 3  # queries of a warpgroup, warpgroups of a program
TILE, STAGES = 128, 2  # keys taken at a time, tiles on their way
LOG2_E = 1.4426950408889634


@gluon.jit
def _softmax(s, m, l, left, SCALE: gl.constexpr, MASK: gl.constexpr):  # noqa: E741
    """A tile's scores -> their exponentials, and the running maximum and sum; `rescale` is what the sum and the result so far are multiplied by."""
    if MASK:
        column = gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
        s = gl.where((column < left)[None, :], s, -1e30)
    new = gl.maximum(m, gl.max(s, 1) * SCALE)
    rescale = gl.exp2(m - new)
    p = gl.exp2(s * SCALE - new[:, None])
    return p, new, l * rescale + gl.sum(p, 1), rescale


@gluon.jit
def _tile(
    j, p, m, l, acc, q, zero, left, k_smem, v_smem, k_full, v_full, k_free, v_free,  # noqa: E741
    SCALE: gl.constexpr, MASK: gl.constexpr, OUT: gl.constexpr, P: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Scores of tile j and, at the same time, the values of tile j - 1 under its weights p."""
    now, before = j % STAGES, (j - 1) % STAGES
    mbarrier.wait(k_full.index(now), (j // STAGES) & 1)
    scores = warpgroup_mma(q, k_smem.index(now).reshape((zero.shape[1], 64)).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(before), ((j - 1) // STAGES) & 1)
    result = warpgroup_mma(p, v_smem.index(before).reshape((zero.shape[1], 64)), acc, is_async=True)
    s = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(k_free.index(now), count=1)
    weights, m, l, rescale = _softmax(s, m, l, left, SCALE, MASK)  # noqa: E741
    acc = warpgroup_mma_wait(0, deps=[result])
    mbarrier.arrive(v_free.index(before), count=1)
    acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, OUT))[:, None]
    return gl.convert_layout(weights.to(p.dtype), P), m, l, acc


@gluon.jit
def _consume(
    group, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, out_ptr, first, batch, head, queries, keys, heads,
    SCALE: gl.constexpr, ROWS: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """One warpgroup: 64 queries over all keys."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16])
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    m = gl.full([ROWS], -1e30, gl.float32, gl.SliceLayout(1, SCORES))
    l = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, SCORES))  # noqa: E741
    acc = gl.full([ROWS, 64], 0.0, gl.float32, OUT)
    zero = gl.full([ROWS, TILE], 0.0, gl.float32, SCORES)
    tiles = gl.cdiv(keys, TILE)
    left = keys - (tiles - 1) * TILE  # in the last tile
    q = q_smem.index(group).reshape((ROWS, 64))
    mbarrier.wait(q_full, 0)
    mbarrier.wait(k_full.index(0), 0)
    scores = warpgroup_mma(q, k_smem.index(0).reshape((TILE, 64)).permute((1, 0)), zero, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_free.index(0), count=1)
    weights, m, l, _ = _softmax(s, m, l, keys, SCALE, True)  # noqa: E741
    p = gl.convert_layout(weights.to(k_smem.dtype), P)
    for j in range(1, tiles - 1):
        p, m, l, acc = _tile(j, p, m, l, acc, q, zero, left, k_smem, v_smem, k_full, v_full, k_free, v_free, SCALE, False, OUT, P, STAGES)  # noqa: E741
    for j in range(gl.maximum(tiles - 1, 1), tiles):  # the last one may be ragged
        p, m, l, acc = _tile(j, p, m, l, acc, q, zero, left, k_smem, v_smem, k_full, v_full, k_free, v_free, SCALE, True, OUT, P, STAGES)  # noqa: E741
    last = tiles - 1
    mbarrier.wait(v_full.index(last % STAGES), (last // STAGES) & 1)
    result = warpgroup_mma(p, v_smem.index(last % STAGES).reshape((TILE, 64)), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[result]) / gl.convert_layout(l, gl.SliceLayout(1, OUT))[:, None]
    row = first + group * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, OUT))
    column = gl.arange(0, 64, gl.SliceLayout(0, OUT))
    at = (batch.to(gl.int64) * queries + row)[:, None] * (heads * 64) + (head * 64 + column)[None, :]
    gl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=(row < queries)[:, None])


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, first, batch, head, keys,
    ROWS: gl.constexpr, GROUPS: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """One warp: all that the consumers read. What lies past a sequence's end arrives as zeros."""
    mbarrier.expect(q_full, GROUPS * ROWS * 64 * 2)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(q_desc, [batch, first + group * ROWS, head * 64], q_full, q_smem.index(group))
    for j in range(gl.cdiv(keys, TILE)):
        stage, phase = j % STAGES, ((j // STAGES) & 1) ^ 1
        mbarrier.wait(k_free.index(stage), phase)
        mbarrier.expect(k_full.index(stage), TILE * 64 * 2)
        tma.async_copy_global_to_shared(k_desc, [batch, j * TILE, head * 64], k_full.index(stage), k_smem.index(stage))
        mbarrier.wait(v_free.index(stage), phase)
        mbarrier.expect(v_full.index(stage), TILE * 64 * 2)
        tma.async_copy_global_to_shared(v_desc, [batch, j * TILE, head * 64], v_full.index(stage), v_smem.index(stage))


@gluon.jit
def _attention_kernel(
    q_desc, k_desc, v_desc, out_ptr, queries, keys, heads,
    SCALE: gl.constexpr, ROWS: gl.constexpr, GROUPS: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [GROUPS, 1, ROWS, 64], q_desc.layout)
    k_smem = gl.allocate_shared_memory(q_desc.dtype, [STAGES, 1, TILE, 64], k_desc.layout)
    v_smem = gl.allocate_shared_memory(q_desc.dtype, [STAGES, 1, TILE, 64], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=GROUPS)
        mbarrier.init(v_free.index(stage), count=GROUPS)
    fence_async_shared()
    first = gl.program_id(0) * (ROWS * GROUPS)
    batch, head = gl.program_id(1) // heads, gl.program_id(1) % heads
    gl.warp_specialize(
        [
            (_consume, (0, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, out_ptr, first, batch, head, queries, keys, heads, SCALE, ROWS, TILE, STAGES)),
            (_consume, (1, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, out_ptr, first, batch, head, queries, keys, heads, SCALE, ROWS, TILE, STAGES)),
            (_consume, (2, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, out_ptr, first, batch, head, queries, keys, heads, SCALE, ROWS, TILE, STAGES)),
            (_produce, (q_desc, k_desc, v_desc, q_smem, k_smem, v_smem, q_full, k_full, v_full, k_free, v_free, first, batch, head, keys, ROWS, GROUPS, TILE, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )  # fmt: skip


LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3)


def _tiles_of(x: Tensor, rows: int) -> TensorDescriptor:
    """(B, T, H, 64) as the accelerator reads it: a head's columns of `rows` tokens at a time."""
    batch, tokens, heads, _ = x.shape
    assert x.stride(3) == 1 and x.stride(2) == WIDTH
    # A single sequence's own stride is never used, and needn't be aligned.
    strides = [x.stride(0) if batch > 1 else tokens * x.stride(1), x.stride(1), 1]
    return TensorDescriptor(x, [batch, tokens, heads * WIDTH], strides, [1, rows, WIDTH], LAYOUT)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (B, T, H, 64), k and v (B, S, H, 64), float16 or bfloat16, heads side by side -> (B, T, H * 64)."""
    batch, queries, heads, width = q.shape
    out = torch.empty(batch, queries, heads * width, dtype=q.dtype, device=q.device)
    grid = (-(-queries // (ROWS * GROUPS)), batch * heads)
    _attention_kernel[grid](
        _tiles_of(q, ROWS), _tiles_of(k, TILE), _tiles_of(v, TILE), out, queries, k.shape[1], heads, width**-0.5 * LOG2_E, ROWS, GROUPS,
        TILE, STAGES, num_warps=4,
    )  # fmt: skip
    return out
